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

// On x's device and torch's current stream there. Workspace comes from torch's allocator: ordered with the stream, and
// part of a captured graph's pool; so is the release of tensors that had to be copied.
struct DenseBlockOnCuda {
  torch::stable::accelerator::DeviceGuard guard;
  void* stream;
  cuda::DenseBlockOptions options;

  DenseBlockOnCuda(const char* op, const Tensor& x, const std::string& compute)
      : guard(x.get_device_index()),
        stream(current_cuda_stream(x)),
        options{operand_of(op, compute), cuda::fused_selected(), cpu::dense_block_workspace()} {}

  Tensor workspace(const DenseBlockParams& p, const Tensor& x, cuda::DenseBlockPass pass) const {
    const int64_t bytes[] = {int64_t(cuda::dense_block_workspace_bytes(p.shape, p.dtype, options, pass))};
    return torch::stable::new_empty(x, {bytes, 1}, torch::headeronly::ScalarType::Byte);
  }
  void forward(const DenseBlockParams& params, const Tensor& x) const {
    Tensor room = workspace(params, x, cuda::DenseBlockPass::kForward);
    cuda::dense_block_forward(params, options, room.mutable_data_ptr(), stream);
  }
  void backward(const DenseBlockBackwardParams& params, const Tensor& x) const {
    const bool coupled = params.coupling.walk != CouplingWalk::kNone;
    Tensor room = workspace(params.forward, x,
                            coupled ? cuda::DenseBlockPass::kCoupledBackward : cuda::DenseBlockPass::kBackward);
    cuda::dense_block_backward(params, options, room.mutable_data_ptr(), stream);
  }
};

}  // namespace

bool cuda::fused_selected() { return selection().load(); }
void cuda::select_fused(bool fused) { selection().store(fused); }

}  // namespace ivan_fast

STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CUDA, m) { ivan_fast::register_dense_block<ivan_fast::DenseBlockOnCuda>(m); }
