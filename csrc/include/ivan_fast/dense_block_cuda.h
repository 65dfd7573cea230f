// CUDA entry points of the dense block (formulas and parameters: dense_block.h), and what a call takes of a device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ivan_fast/dense_block.h"

namespace ivan_fast::cuda {

// What operands are rounded to. Sums stay in the tensor's own type.
enum class DenseBlockOperand : int { kExact, kBFloat16, kFloat16, kTf32 };

// The properties of a device that decide.
struct DenseBlockDevice {
  int capability;       // 10 * major + minor
  int multiprocessors;  // their number
  int shared_bytes;     // that one thread block may use
};

// kCoupledBackward: with a DenseBlockCoupling.
enum class DenseBlockPass : int { kForward, kBackward, kCoupledBackward };

struct DenseBlockOptions {
  DenseBlockOperand operand;
  bool fused;              // the forward in one kernel where that is possible, else level by level: the same bits
  size_t workspace_limit;  // bytes
};

// Whether callers should ask for the fused kernel: process-wide, at first what IVAN_FAST_CUDA_KERNEL says ("layerwise",
// the default, or "fused"; anything else throws std::runtime_error).
bool fused_selected();
void select_fused(bool fused);

// Bytes of device memory that a call needs as `workspace`, on the current device: at most about
// options.workspace_limit, but never less than one small tile of the image takes, and with a coupling two images of
// out_channels besides.
size_t dense_block_workspace_bytes(const DenseBlockShape& shape, DType dtype, const DenseBlockOptions& options,
                                   DenseBlockPass pass);

// On the current device, on `stream` (a cudaStream_t). `workspace` is aligned to 256 bytes. No synchronisation, no
// allocation, no atomics: the same call gives the same bits. Throws std::runtime_error.
void dense_block_forward(const DenseBlockParams& params, const DenseBlockOptions& options, void* workspace,
                         void* stream);
void dense_block_backward(const DenseBlockBackwardParams& params, const DenseBlockOptions& options, void* workspace,
                          void* stream);

}  // namespace ivan_fast::cuda
