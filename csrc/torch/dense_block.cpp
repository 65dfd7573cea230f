// Binding of the dense block ops on the CPU (CUDA: dense_block_cuda.cpp).
#include <cmath>
#include <tuple>

#include "dense_block_args.h"

namespace ivan_fast {
namespace {

void parallel_for(int64_t count, void (*body)(int64_t, void*), void* context) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i, context);
  });
}

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

Tensor dense_block(const Tensor& x, const Tensors& weights, const Tensors& biases, double negative_slope,
                   const std::string& compute) {
  Arguments call("dense_block", x, weights, biases, negative_slope, compute);
  Tensor y = empty_output(x, call.params.shape);
  call.params.y = y.mutable_data_ptr();
  cpu::dense_block_forward(call.params, int(torch::stable::get_num_threads()), parallel_for);
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
  void compute() const { cpu::dense_block_backward(params, int(torch::stable::get_num_threads()), parallel_for); }
};

std::tuple<Tensor, Tensor, Tensors, Tensors> dense_block_backward(const Tensor& grad_y, const Tensor& x,
                                                                  const Tensors& weights, const Tensors& biases,
                                                                  double negative_slope, const std::string& compute) {
  const char* op = "dense_block_backward";
  const Arguments call(op, x, weights, biases, negative_slope, compute);
  Gradients gradients(call, x, weights, biases);
  Tensor y = empty_output(x, call.params.shape);
  check_alike(op, "x", x, "grad_y", grad_y);
  check(same_shape(grad_y, y), op, ": grad_y has shape ", shape_of(grad_y), ", expected ", shape_of(y));
  const Tensor kept_grad = with_contiguous_samples(grad_y);
  gradients.params.forward.y = y.mutable_data_ptr();
  gradients.params.grad_y = as_input(kept_grad);
  gradients.compute();
  return {y, gradients.grad_x, gradients.weights.tensors, gradients.biases.tensors};
}

using Walked = std::tuple<Tensor, Tensor, Tensor, Tensors, Tensors>;

// The walk back through a coupling: `state` and its gradient to the other side, the rest as in dense_block_backward.
Walked walk(const char* op, CouplingWalk kind, const char* state_name, const Tensor& state, const Tensor* g,
            const char* grad_name, const Tensor& grad, const Tensor& x, const Tensors& weights, const Tensors& biases,
            double clamp, double negative_slope, const std::string& compute) {
  check(std::isfinite(clamp) && clamp >= 0, op, ": clamp is ", clamp, ", expected a finite number >= 0");
  const Arguments call(op, x, weights, biases, negative_slope, compute);
  Gradients gradients(call, x, weights, biases);
  DenseBlockCoupling& coupling = gradients.params.coupling;
  const DenseBlockShape& shape = call.params.shape;
  const Tensor kept_state = checked_half(op, x, shape, state_name, state, state_name, state, coupling.state);
  const Tensor kept_grad = checked_half(op, x, shape, state_name, state, grad_name, grad, coupling.grad);
  const Tensor kept_g = g ? checked_half(op, x, shape, state_name, state, "g", *g, coupling.g) : kept_state;
  Tensor out = empty_as(state), grad_state = empty_as(state);
  coupling.walk = kind;
  coupling.dtype = state_dtype(op, state_name, state);
  coupling.clamp = clamp;
  coupling.out = out.mutable_data_ptr();
  coupling.grad_state = grad_state.mutable_data_ptr();
  gradients.compute();
  return {out, grad_state, gradients.grad_x, gradients.weights.tensors, gradients.biases.tensors};
}

Walked dense_block_coupling_backward(const Tensor& y2, const Tensor& g, const Tensor& grad_y2, const Tensor& x,
                                     const Tensors& weights, const Tensors& biases, double clamp, double negative_slope,
                                     const std::string& compute) {
  return walk("dense_block_coupling_backward", CouplingWalk::kForward, "y2", y2, &g, "grad_y2", grad_y2, x, weights,
              biases, clamp, negative_slope, compute);
}

Walked dense_block_coupling_inverse_backward(const Tensor& x2, const Tensor& grad_x2, const Tensor& x,
                                             const Tensors& weights, const Tensors& biases, double clamp,
                                             double negative_slope, const std::string& compute) {
  return walk("dense_block_coupling_inverse_backward", CouplingWalk::kInverse, "x2", x2, nullptr, "grad_x2", grad_x2, x,
              weights, biases, clamp, negative_slope, compute);
}

}  // namespace
}  // namespace ivan_fast

STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CPU, m) {
  m.impl("dense_block", TORCH_BOX(&ivan_fast::dense_block));
  m.impl("dense_block_backward", TORCH_BOX(&ivan_fast::dense_block_backward));
  m.impl("dense_block_coupling_backward", TORCH_BOX(&ivan_fast::dense_block_coupling_backward));
  m.impl("dense_block_coupling_inverse_backward", TORCH_BOX(&ivan_fast::dense_block_coupling_inverse_backward));
}
