// What the parts of the dense block give each other: the device in use, and the calls on tensor cores.
#pragma once

#include "common.cuh"
#include "dense_block_fused_geometry.h"
#include "ivan_fast/dense_block_cuda.h"

namespace ivan_fast::cuda {

// float32 tensors with operands that are not exact, on devices that have them (dense_block.cu decides).
void tensor_core_forward(const DenseBlockParams& params, const DenseBlockOptions& options, void* workspace,
                         cudaStream_t stream);
void tensor_core_backward(const DenseBlockBackwardParams& params, const DenseBlockOptions& options, void* workspace,
                          cudaStream_t stream);
// The forward in one kernel, where the geometry is possible: the same bits.
void fused_forward(const DenseBlockParams& params, const DenseBlockOptions& options, const FusedGeometry& geometry,
                   void* workspace, cudaStream_t stream);

inline DenseBlockPass backward_pass(const DenseBlockBackwardParams& p) {
  return p.coupling.walk == CouplingWalk::kNone ? DenseBlockPass::kBackward : DenseBlockPass::kCoupledBackward;
}

inline DenseBlockDevice current_device() {
  int device = 0, major = 0, minor = 0;
  DenseBlockDevice found{};
  check(cudaGetDevice(&device), "dense_block");
  const auto attribute = [device](int* value, cudaDeviceAttr which) {
    check(cudaDeviceGetAttribute(value, which, device), "dense_block");
  };
  attribute(&major, cudaDevAttrComputeCapabilityMajor);
  attribute(&minor, cudaDevAttrComputeCapabilityMinor);
  attribute(&found.multiprocessors, cudaDevAttrMultiProcessorCount);
  attribute(&found.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  found.capability = 10 * major + minor;
  return found;
}

}  // namespace ivan_fast::cuda
