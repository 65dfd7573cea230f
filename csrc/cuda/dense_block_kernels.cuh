// What the parts of the dense block give each other: the device in use, and the calls on tensor cores.
#pragma once

#include "common.cuh"
#include "dense_block_fused_geometry.h"
#include "ivan_fast/dense_block_cuda.h"

namespace ivan_fast::cuda {

// float32 tensors with operands that are not exact, on devices that have them (dense_block.cu decides).
void tensor_core_forward(const DenseBlockCall& call, const DenseBlockOptions& options, void* workspace,
                         cudaStream_t stream);
void tensor_core_backward(const DenseBlockCall& call, const DenseBlockOptions& options, void* workspace,
                          cudaStream_t stream);

inline DenseBlockPass backward_pass(const DenseBlockCall& call) {
  return call.coupling.walk == CouplingWalk::kNone ? DenseBlockPass::kBackward : DenseBlockPass::kCoupledBackward;
}

// The device in use; its capability as far as these kernels were compiled for it.
DenseBlockDevice current_device();

// Whether a net runs in one kernel, of a call that runs on tensor cores.
inline bool fused_is_possible(const DenseBlockOptions& options, const DenseNet& net, int operand_size,
                              const DenseBlockDevice& device) {
  return options.fused && device.capability >= 80 && remembered_geometry(net, 1, 1, 1, operand_size, device).possible;
}

}  // namespace ivan_fast::cuda
