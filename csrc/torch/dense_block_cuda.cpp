// Binding of the dense block ops for CUDA tensors.
#include "ivan_fast/dense_block_cuda.h"

#include <atomic>
#include <cstdlib>

#include "dense_block_ops.h"

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

// A call of one dense block.
cuda::DenseBlockCall call_of(const DenseBlockParams& p) {
  cuda::DenseBlockCall call{};
  call.shape = p.shape;
  call.dtype = p.dtype;
  call.negative_slope = p.negative_slope;
  call.x = p.x;
  call.nets = 1;
  call.net[0] = {p.weights, p.biases, p.y, {}, nullptr, nullptr};
  return call;
}

// Workspace comes from torch's allocator: ordered with the stream, and part of a captured graph's pool; so is the
// release of tensors that had to be copied.
struct DenseBlockOnCuda : OnCudaStream {
  cuda::DenseBlockOptions options;

  DenseBlockOnCuda(const char* op, const Tensor& x, const std::string& compute)
      : OnCudaStream(x), options{operand_of(op, compute), cuda::fused_selected(), cpu::dense_block_workspace()} {}

  Tensor workspace(const cuda::DenseBlockCall& call, const Tensor& x, cuda::DenseBlockPass pass) const {
    const int64_t bytes[] = {
        int64_t(cuda::dense_block_workspace_bytes(call.shape, call.nets, call.dtype, options, pass))};
    return torch::stable::new_empty(x, {bytes, 1}, torch::headeronly::ScalarType::Byte);
  }
  void forward(const cuda::DenseBlockCall& call, const Tensor& x) const {
    Tensor room = workspace(call, x, cuda::DenseBlockPass::kForward);
    cuda::dense_block_forward(call, options, room.mutable_data_ptr(), stream);
  }
  void backward(const cuda::DenseBlockCall& call, const Tensor& x) const {
    const bool coupled = call.coupling.walk != CouplingWalk::kNone;
    Tensor room =
        workspace(call, x, coupled ? cuda::DenseBlockPass::kCoupledBackward : cuda::DenseBlockPass::kBackward);
    cuda::dense_block_backward(call, options, room.mutable_data_ptr(), stream);
  }

  void forward(const DenseBlockParams& params, const Tensor& x) const { forward(call_of(params), x); }
  void backward(const DenseBlockBackwardParams& params, const Tensor& x) const {
    cuda::DenseBlockCall call = call_of(params.forward);
    call.net[0].grad_y = params.grad_y;
    call.net[0].grad_weights = params.grad_weights;
    call.net[0].grad_biases = params.grad_biases;
    call.coupling = params.coupling;
    call.grad_x = params.grad_x;
    backward(call, x);
  }
};

// Two dense blocks, G and H, of one shape on one input.
struct PairArguments {
  const Arguments g, h;
  cuda::DenseBlockCall call;

  PairArguments(const char* op, const Tensor& x, const Tensors& weights_g, const Tensors& biases_g,
                const Tensors& weights_h, const Tensors& biases_h, double negative_slope, const std::string& compute)
      : g(op, x, weights_g, biases_g, negative_slope, compute),
        h(op, g.x, weights_h, biases_h, negative_slope, compute),
        call(call_of(g.params)) {
    const DenseBlockShape &a = g.params.shape, &b = h.params.shape;
    check(a.growth == b.growth && a.depth == b.depth && a.out_channels == b.out_channels, op, ": G has depth ", a.depth,
          ", growth ", a.growth, " and ", a.out_channels, " outputs, H has depth ", b.depth, ", growth ", b.growth,
          " and ", b.out_channels, "; they must be the same");
    call.nets = 2;
    call.net[1] = {h.params.weights, h.params.biases, nullptr, {}, nullptr, nullptr};
  }
};

struct PairOutputs {
  Tensor g, h;
  PairOutputs(PairArguments& pair, const Tensor& x)
      : g(empty_output(x, pair.call.shape)), h(empty_output(x, pair.call.shape)) {
    pair.call.net[0].y = g.mutable_data_ptr();
    pair.call.net[1].y = h.mutable_data_ptr();
  }
};

struct PairGradients {
  Tensor grad_x;
  Outputs weights_g, biases_g, weights_h, biases_h;

  PairGradients(PairArguments& pair, const Tensor& x, const Tensors& given_weights_g, const Tensors& given_biases_g,
                const Tensors& given_weights_h, const Tensors& given_biases_h)
      : grad_x(empty_as(x)),
        weights_g(given_weights_g),
        biases_g(given_biases_g),
        weights_h(given_weights_h),
        biases_h(given_biases_h) {
    pair.call.grad_x = grad_x.mutable_data_ptr();
    pair.call.net[0].grad_weights = weights_g.data.data();
    pair.call.net[0].grad_biases = biases_g.data.data();
    pair.call.net[1].grad_weights = weights_h.data.data();
    pair.call.net[1].grad_biases = biases_h.data.data();
  }
};

std::tuple<Tensor, Tensor> dense_block_pair(const Tensor& x, const Tensors& weights_g, const Tensors& biases_g,
                                            const Tensors& weights_h, const Tensors& biases_h, double negative_slope,
                                            const std::string& compute) {
  const char* op = "dense_block_pair";
  const DenseBlockOnCuda device(op, x, compute);
  PairArguments pair(op, x, weights_g, biases_g, weights_h, biases_h, negative_slope, compute);
  const PairOutputs outputs(pair, x);
  device.forward(pair.call, pair.g.x);
  return {outputs.g, outputs.h};
}

std::tuple<Tensor, Tensors, Tensors, Tensors, Tensors> dense_block_pair_backward(
    const Tensor& grad_g, const Tensor& grad_h, const Tensor& x, const Tensors& weights_g, const Tensors& biases_g,
    const Tensors& weights_h, const Tensors& biases_h, double negative_slope, const std::string& compute) {
  const char* op = "dense_block_pair_backward";
  const DenseBlockOnCuda device(op, x, compute);
  PairArguments pair(op, x, weights_g, biases_g, weights_h, biases_h, negative_slope, compute);
  PairGradients gradients(pair, x, weights_g, biases_g, weights_h, biases_h);
  const Tensor kept_g = checked_gradient(op, x, pair.call.shape, "grad_g", grad_g, pair.call.net[0].grad_y);
  const Tensor kept_h = checked_gradient(op, x, pair.call.shape, "grad_h", grad_h, pair.call.net[1].grad_y);
  device.backward(pair.call, pair.g.x);
  return {gradients.grad_x, gradients.weights_g.tensors, gradients.biases_g.tensors, gradients.weights_h.tensors,
          gradients.biases_h.tensors};
}

using WalkedPair = std::tuple<Tensor, Tensor, Tensor, Tensors, Tensors, Tensors, Tensors>;

// The walk back through a whole coupling: `state` and its gradient to the other side, and all that G and H give.
WalkedPair walk_pair(const char* op, CouplingWalk kind, const char* state_name, const Tensor& state,
                     const char* grad_name, const Tensor& grad, const Tensor& x, const Tensors& weights_g,
                     const Tensors& biases_g, const Tensors& weights_h, const Tensors& biases_h, double clamp,
                     double negative_slope, const std::string& compute) {
  const DenseBlockOnCuda device(op, x, compute);
  PairArguments pair(op, x, weights_g, biases_g, weights_h, biases_h, negative_slope, compute);
  PairGradients gradients(pair, x, weights_g, biases_g, weights_h, biases_h);
  const WalkedState walked(op, kind, x, pair.call.shape, state_name, state, grad_name, grad, clamp, pair.call.coupling);
  device.backward(pair.call, pair.g.x);
  return {walked.out,
          walked.grad_state,
          gradients.grad_x,
          gradients.weights_g.tensors,
          gradients.biases_g.tensors,
          gradients.weights_h.tensors,
          gradients.biases_h.tensors};
}

WalkedPair dense_block_pair_coupling_backward(const Tensor& y2, const Tensor& grad_y2, const Tensor& x,
                                              const Tensors& weights_g, const Tensors& biases_g,
                                              const Tensors& weights_h, const Tensors& biases_h, double clamp,
                                              double negative_slope, const std::string& compute) {
  return walk_pair("dense_block_pair_coupling_backward", CouplingWalk::kForward, "y2", y2, "grad_y2", grad_y2, x,
                   weights_g, biases_g, weights_h, biases_h, clamp, negative_slope, compute);
}

WalkedPair dense_block_pair_coupling_inverse_backward(const Tensor& x2, const Tensor& grad_x2, const Tensor& x,
                                                      const Tensors& weights_g, const Tensors& biases_g,
                                                      const Tensors& weights_h, const Tensors& biases_h, double clamp,
                                                      double negative_slope, const std::string& compute) {
  return walk_pair("dense_block_pair_coupling_inverse_backward", CouplingWalk::kInverse, "x2", x2, "grad_x2", grad_x2,
                   x, weights_g, biases_g, weights_h, biases_h, clamp, negative_slope, compute);
}

}  // namespace

bool cuda::fused_selected() { return selection().load(); }
void cuda::select_fused(bool fused) { selection().store(fused); }

}  // namespace ivan_fast

STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CUDA, m) {
  ivan_fast::register_dense_block<ivan_fast::DenseBlockOnCuda>(m);
  m.impl("dense_block_pair", TORCH_BOX(&ivan_fast::dense_block_pair));
  m.impl("dense_block_pair_backward", TORCH_BOX(&ivan_fast::dense_block_pair_backward));
  m.impl("dense_block_pair_coupling_backward", TORCH_BOX(&ivan_fast::dense_block_pair_coupling_backward));
  m.impl("dense_block_pair_coupling_inverse_backward",
         TORCH_BOX(&ivan_fast::dense_block_pair_coupling_inverse_backward));
}
