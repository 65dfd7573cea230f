// The dense block ops on any device: arguments checked, outputs made, kernels called.
#pragma once

#include <tuple>

#include "dense_block_args.h"

namespace ivan_fast {

// The checked arguments of one call. Tensors that had to be copied live as long as this does.
struct Arguments {
  const Tensor x;
  const Parameters weights, biases;
  DenseBlockParams params{};

  Arguments(const char* op, const Tensor& given_x, const Tensors& given_weights, const Tensors& given_biases,
            double negative_slope, const std::string& compute)
      : x(with_contiguous_samples(given_x)), weights(given_weights), biases(given_biases) {
    params.dtype = state_dtype(op, "x", given_x);
    params.rounding = rounding_of(op, compute);
    params.winograd = compute == "fast";
    params.shape = checked_shape(op, given_x, given_weights, given_biases);
    params.negative_slope = negative_slope;
    params.x = as_input(x);
    params.weights = weights.data.data();
    params.biases = biases.data.data();
  }
};

// A Device is made of (op, x, compute) before anything else of the call; it runs forward(params, x) and
// backward(params, x), whose tensors live on it.
template <class Device>
Tensor dense_block(const Tensor& x, const Tensors& weights, const Tensors& biases, double negative_slope,
                   const std::string& compute) {
  const char* op = "dense_block";
  const Device device(op, x, compute);
  Arguments call(op, x, weights, biases, negative_slope, compute);
  Tensor y = empty_output(x, call.params.shape);
  call.params.y = y.mutable_data_ptr();
  device.forward(call.params, call.x);
  return y;
}

// What the backward ops have in common: gradients of x and of the parameters.
struct Gradients {
  DenseBlockBackwardParams params{};
  Tensor grad_x;
  Outputs weights, biases;

  Gradients(const Arguments& call, const Tensor& x, const Tensors& given_weights, const Tensors& given_biases)
      : grad_x(empty_as(x)), weights(given_weights), biases(given_biases) {
    params.forward = call.params;
    params.grad_x = grad_x.mutable_data_ptr();
    params.grad_weights = weights.data.data();
    params.grad_biases = biases.data.data();
  }
};

template <class Device>
std::tuple<Tensor, Tensor, Tensors, Tensors> dense_block_backward(const Tensor& grad_y, const Tensor& x,
                                                                  const Tensors& weights, const Tensors& biases,
                                                                  double negative_slope, const std::string& compute) {
  const char* op = "dense_block_backward";
  const Device device(op, x, compute);
  const Arguments call(op, x, weights, biases, negative_slope, compute);
  Gradients gradients(call, x, weights, biases);
  Tensor y = empty_output(x, call.params.shape);
  gradients.params.forward.y = y.mutable_data_ptr();
  const Tensor kept_grad = checked_gradient(op, x, call.params.shape, "grad_y", grad_y, gradients.params.grad_y);
  device.backward(gradients.params, call.x);
  return {y, gradients.grad_x, gradients.weights.tensors, gradients.biases.tensors};
}

using Walked = std::tuple<Tensor, Tensor, Tensor, Tensors, Tensors>;

// The walk back through a coupling: `state` and its gradient to the other side, the rest as in dense_block_backward.
template <class Device>
Walked walk(const char* op, CouplingWalk kind, const char* state_name, const Tensor& state, const Tensor* g,
            const char* grad_name, const Tensor& grad, const Tensor& x, const Tensors& weights, const Tensors& biases,
            double clamp, double negative_slope, const std::string& compute) {
  const Device device(op, x, compute);
  const Arguments call(op, x, weights, biases, negative_slope, compute);
  Gradients gradients(call, x, weights, biases);
  DenseBlockCoupling& coupling = gradients.params.coupling;
  const DenseBlockShape& shape = call.params.shape;
  const WalkedState walked(op, kind, x, shape, state_name, state, grad_name, grad, clamp, coupling);
  const Tensor kept_g = g ? checked_half(op, x, shape, state_name, state, "g", *g, coupling.g) : walked.kept_state;
  device.backward(gradients.params, call.x);
  return {walked.out, walked.grad_state, gradients.grad_x, gradients.weights.tensors, gradients.biases.tensors};
}

template <class Device>
Walked dense_block_coupling_backward(const Tensor& y2, const Tensor& g, const Tensor& grad_y2, const Tensor& x,
                                     const Tensors& weights, const Tensors& biases, double clamp, double negative_slope,
                                     const std::string& compute) {
  return walk<Device>("dense_block_coupling_backward", CouplingWalk::kForward, "y2", y2, &g, "grad_y2", grad_y2, x,
                      weights, biases, clamp, negative_slope, compute);
}

template <class Device>
Walked dense_block_coupling_inverse_backward(const Tensor& x2, const Tensor& grad_x2, const Tensor& x,
                                             const Tensors& weights, const Tensors& biases, double clamp,
                                             double negative_slope, const std::string& compute) {
  return walk<Device>("dense_block_coupling_inverse_backward", CouplingWalk::kInverse, "x2", x2, nullptr, "grad_x2",
                      grad_x2, x, weights, biases, clamp, negative_slope, compute);
}

template <class Device>
void register_dense_block(torch::stable::detail::StableLibrary& m) {
  m.impl("dense_block", TORCH_BOX(&dense_block<Device>));
  m.impl("dense_block_backward", TORCH_BOX(&dense_block_backward<Device>));
  m.impl("dense_block_coupling_backward", TORCH_BOX(&dense_block_coupling_backward<Device>));
  m.impl("dense_block_coupling_inverse_backward", TORCH_BOX(&dense_block_coupling_inverse_backward<Device>));
}

}  // namespace ivan_fast
