// Binding of the dense block ops. CPU only: ivan_fast/_dense_block.py registers what CUDA tensors do.
#include <tuple>

#include "dense_block_args.h"

namespace ivan_fast {
namespace {

void parallel_for(int64_t count, void (*body)(int64_t, void*), void* context) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i, context);
  });
}

Tensor dense_block(const Tensor& x, const Tensors& weights, const Tensors& biases, double negative_slope,
                   const std::string& compute) {
  const char* op = "dense_block";
  DenseBlockParams params{};
  params.dtype = state_dtype(op, "x", x);
  params.rounding = rounding_of(op, compute);
  params.winograd = compute == "fast";
  params.shape = checked_shape(op, x, weights, biases);
  params.negative_slope = negative_slope;
  const Tensor kept_x = with_contiguous_samples(x);
  const Parameters kept_weights(weights), kept_biases(biases);
  Tensor y = empty_output(x, params.shape);
  params.x = as_input(kept_x);
  params.weights = kept_weights.data.data();
  params.biases = kept_biases.data.data();
  params.y = y.mutable_data_ptr();
  cpu::dense_block_forward(params, int(torch::stable::get_num_threads()), parallel_for);
  return y;
}

std::tuple<Tensor, Tensor, Tensors, Tensors> dense_block_backward(const Tensor& grad_y, const Tensor& x,
                                                                  const Tensors& weights, const Tensors& biases,
                                                                  double negative_slope, const std::string& compute) {
  const char* op = "dense_block_backward";
  DenseBlockBackwardParams params{};
  DenseBlockParams& forward = params.forward;
  forward.dtype = state_dtype(op, "x", x);
  forward.rounding = rounding_of(op, compute);
  forward.winograd = compute == "fast";
  forward.shape = checked_shape(op, x, weights, biases);
  forward.negative_slope = negative_slope;
  Tensor y = empty_output(x, forward.shape), grad_x = empty_as(x);
  check_alike(op, "x", x, "grad_y", grad_y);
  check(same_shape(grad_y, y), op, ": grad_y has shape ", shape_of(grad_y), ", expected ", shape_of(y));
  const Tensor kept_x = with_contiguous_samples(x), kept_grad = with_contiguous_samples(grad_y);
  const Parameters kept_weights(weights), kept_biases(biases);
  Outputs grad_weights(weights), grad_biases(biases);
  forward.x = as_input(kept_x);
  forward.weights = kept_weights.data.data();
  forward.biases = kept_biases.data.data();
  forward.y = y.mutable_data_ptr();
  params.grad_y = as_input(kept_grad);
  params.grad_x = grad_x.mutable_data_ptr();
  params.grad_weights = grad_weights.data.data();
  params.grad_biases = grad_biases.data.data();
  cpu::dense_block_backward(params, int(torch::stable::get_num_threads()), parallel_for);
  return {y, grad_x, grad_weights.tensors, grad_biases.tensors};
}

}  // namespace
}  // namespace ivan_fast

STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CPU, m) {
  m.impl("dense_block", TORCH_BOX(&ivan_fast::dense_block));
  m.impl("dense_block_backward", TORCH_BOX(&ivan_fast::dense_block_backward));
}
