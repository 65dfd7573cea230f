// Binding of the dense block ops for CUDA tensors.
#include "ivan_fast/dense_block_cuda.h"

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <tuple>

#include "dense_block_args.h"

namespace ivan_fast {
namespace {

std::atomic<bool>& selection() {
  static std::atomic<bool> fused{[] {
    const char* value = std::getenv("IVAN_FAST_CUDA_KERNEL");
    const std::string name = value == nullptr ? "layerwise" : value;
    if (name != "layerwise" && name != "fused")
      throw std::runtime_error("IVAN_FAST_CUDA_KERNEL=" + name + ", expected layerwise or fused");
    return name == "fused";
  }()};
  return fused;
}

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

// The checked arguments of one call, on x's device and torch's current stream there. Tensors that had to be copied live
// as long as this does; what they hold is released in the order of the stream.
struct Call {
  torch::stable::accelerator::DeviceGuard guard;
  void* stream;
  cuda::DenseBlockOptions options;
  Tensor x;
  Parameters weights, biases;
  DenseBlockParams params{};

  Call(const char* op, const Tensor& given_x, const Tensors& given_weights, const Tensors& given_biases,
       double negative_slope, const std::string& compute)
      : guard(given_x.get_device_index()),
        stream(current_cuda_stream(given_x)),
        options{operand_of(op, compute), cuda::fused_selected(), cpu::dense_block_workspace()},
        x(with_contiguous_samples(given_x)),
        weights(given_weights),
        biases(given_biases) {
    params.dtype = state_dtype(op, "x", given_x);
    params.shape = checked_shape(op, given_x, given_weights, given_biases);
    params.negative_slope = negative_slope;
    params.x = as_input(x);
    params.weights = weights.data.data();
    params.biases = biases.data.data();
  }

  // From torch's allocator: ordered with the stream, and part of a captured graph's pool.
  Tensor workspace(cuda::DenseBlockPass pass) const {
    const int64_t bytes[] = {int64_t(cuda::dense_block_workspace_bytes(params.shape, params.dtype, options, pass))};
    return torch::stable::new_empty(x, {bytes, 1}, torch::headeronly::ScalarType::Byte);
  }
};

Tensor dense_block(const Tensor& x, const Tensors& weights, const Tensors& biases, double negative_slope,
                   const std::string& compute) {
  Call call("dense_block", x, weights, biases, negative_slope, compute);
  Tensor y = empty_output(x, call.params.shape);
  call.params.y = y.mutable_data_ptr();
  Tensor workspace = call.workspace(cuda::DenseBlockPass::kForward);
  cuda::dense_block_forward(call.params, call.options, workspace.mutable_data_ptr(), call.stream);
  return y;
}

// What the backward ops have in common: gradients of x and of the parameters.
struct Gradients {
  DenseBlockBackwardParams params{};
  Tensor grad_x;
  Outputs weights, biases;

  Gradients(const Call& call, const Tensor& x, const Tensors& given_weights, const Tensors& given_biases)
      : grad_x(empty_as(x)), weights(given_weights), biases(given_biases) {
    params.forward = call.params;
    params.grad_x = grad_x.mutable_data_ptr();
    params.grad_weights = weights.data.data();
    params.grad_biases = biases.data.data();
  }
  void compute(const Call& call, cuda::DenseBlockPass pass) const {
    Tensor workspace = call.workspace(pass);
    cuda::dense_block_backward(params, call.options, workspace.mutable_data_ptr(), call.stream);
  }
};

std::tuple<Tensor, Tensor, Tensors, Tensors> dense_block_backward(const Tensor& grad_y, const Tensor& x,
                                                                  const Tensors& weights, const Tensors& biases,
                                                                  double negative_slope, const std::string& compute) {
  const char* op = "dense_block_backward";
  const Call call(op, x, weights, biases, negative_slope, compute);
  Gradients gradients(call, x, weights, biases);
  Tensor y = empty_output(x, call.params.shape);
  check_alike(op, "x", x, "grad_y", grad_y);
  check(same_shape(grad_y, y), op, ": grad_y has shape ", shape_of(grad_y), ", expected ", shape_of(y));
  const Tensor kept_grad = with_contiguous_samples(grad_y);
  gradients.params.forward.y = y.mutable_data_ptr();
  gradients.params.grad_y = as_input(kept_grad);
  gradients.compute(call, cuda::DenseBlockPass::kBackward);
  return {y, gradients.grad_x, gradients.weights.tensors, gradients.biases.tensors};
}

using Walked = std::tuple<Tensor, Tensor, Tensor, Tensors, Tensors>;

// The walk back through a coupling: `state` and its gradient to the other side, the rest as in dense_block_backward.
Walked walk(const char* op, CouplingWalk kind, const char* state_name, const Tensor& state, const Tensor* g,
            const char* grad_name, const Tensor& grad, const Tensor& x, const Tensors& weights, const Tensors& biases,
            double clamp, double negative_slope, const std::string& compute) {
  check(std::isfinite(clamp) && clamp >= 0, op, ": clamp is ", clamp, ", expected a finite number >= 0");
  const Call call(op, x, weights, biases, negative_slope, compute);
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
  gradients.compute(call, cuda::DenseBlockPass::kCoupledBackward);
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

bool cuda::fused_selected() { return selection().load(); }
void cuda::select_fused(bool fused) { selection().store(fused); }

}  // namespace ivan_fast

STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CUDA, m) {
  m.impl("dense_block", TORCH_BOX(&ivan_fast::dense_block));
  m.impl("dense_block_backward", TORCH_BOX(&ivan_fast::dense_block_backward));
  m.impl("dense_block_coupling_backward", TORCH_BOX(&ivan_fast::dense_block_coupling_backward));
  m.impl("dense_block_coupling_inverse_backward", TORCH_BOX(&ivan_fast::dense_block_coupling_inverse_backward));
}
