// Binding of the dense block ops for CUDA tensors.
#include "ivan_fast/dense_block_cuda.h"

#include <tuple>

#include "dense_block_args.h"

namespace ivan_fast {
namespace {

cuda::DenseBlockOperand operand_of(const char* op, const std::string& compute) {
  if (compute == "tf32") return cuda::DenseBlockOperand::kTf32;
  switch (rounding_of(op, compute)) {
    case DenseBlockRounding::kBFloat16:
      return cuda::DenseBlockOperand::kBFloat16;
    case DenseBlockRounding::kFloat16:
      return cuda::DenseBlockOperand::kFloat16;
    default:
      return cuda::DenseBlockOperand::kExact;
  }
}

// Bytes on x's device from torch's allocator: ordered with the current stream, part of a captured graph's pool.
Tensor workspace_for(const Tensor& x, const DenseBlockParams& params, const cuda::DenseBlockOptions& options,
                     bool backward) {
  const size_t bytes = cuda::dense_block_workspace_bytes(params.shape, params.dtype, options, backward);
  const int64_t sizes[] = {int64_t(bytes)};
  return torch::stable::new_empty(x, {sizes, 1}, torch::headeronly::ScalarType::Byte);
}

// The checked arguments that both directions share.
struct Call {
  torch::stable::accelerator::DeviceGuard guard;
  void* stream;
  cuda::DenseBlockOptions options;
  DenseBlockParams params{};
  Tensor x, y;
  Parameters weights, biases;

  Call(const char* op, const Tensor& x_, const Tensors& weights_, const Tensors& biases_, double negative_slope,
       const std::string& compute)
      : guard(x_.get_device_index()),
        stream(current_cuda_stream(x_)),
        options{operand_of(op, compute), false, cpu::dense_block_workspace()},
        params(checked(op, x_, weights_, biases_)),
        x(with_contiguous_samples(x_)),
        y(empty_output(x_, params.shape)),
        weights(weights_),
        biases(biases_) {
    params.negative_slope = negative_slope;
    params.x = as_input(x);
    params.weights = weights.data.data();
    params.biases = biases.data.data();
    params.y = y.mutable_data_ptr();
  }

  static DenseBlockParams checked(const char* op, const Tensor& x, const Tensors& weights, const Tensors& biases) {
    DenseBlockParams params{};
    params.dtype = state_dtype(op, "x", x);
    params.shape = checked_shape(op, x, weights, biases);
    return params;
  }
};

Tensor dense_block(const Tensor& x, const Tensors& weights, const Tensors& biases, double negative_slope,
                   const std::string& compute) {
  const Call call("dense_block", x, weights, biases, negative_slope, compute);
  Tensor workspace = workspace_for(x, call.params, call.options, false);
  cuda::dense_block_forward(call.params, call.options, workspace.mutable_data_ptr(), call.stream);
  return call.y;
}

std::tuple<Tensor, Tensor, Tensors, Tensors> dense_block_backward(const Tensor& grad_y, const Tensor& x,
                                                                  const Tensors& weights, const Tensors& biases,
                                                                  double negative_slope, const std::string& compute) {
  const char* op = "dense_block_backward";
  const Call call(op, x, weights, biases, negative_slope, compute);
  check_alike(op, "x", x, "grad_y", grad_y);
  check(same_shape(grad_y, call.y), op, ": grad_y has shape ", shape_of(grad_y), ", expected ", shape_of(call.y));
  const Tensor kept_grad = with_contiguous_samples(grad_y);
  Tensor grad_x = empty_as(x);
  Outputs grad_weights(weights), grad_biases(biases);
  Tensor workspace = workspace_for(x, call.params, call.options, true);
  DenseBlockBackwardParams params{call.params, as_input(kept_grad), grad_x.mutable_data_ptr(), grad_weights.data.data(),
                                  grad_biases.data.data()};
  cuda::dense_block_backward(params, call.options, workspace.mutable_data_ptr(), call.stream);
  return {call.y, grad_x, grad_weights.tensors, grad_biases.tensors};
}

}  // namespace
}  // namespace ivan_fast

STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CUDA, m) {
  m.impl("dense_block", TORCH_BOX(&ivan_fast::dense_block));
  m.impl("dense_block_backward", TORCH_BOX(&ivan_fast::dense_block_backward));
}
