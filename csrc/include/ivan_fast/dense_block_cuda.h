// CUDA entry points of the dense block (formulas and parameters: dense_block.h), and what a call takes of a device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ivan_fast/dense_block.h"

namespace ivan_fast::cuda {

// What operands are rounded to. Sums stay in the tensor's own type.
enum class DenseBlockOperand : int { kExact, kBFloat16, kFloat16, kTf32 };

// Which kernels multiply: exact arithmetic in the tensor's type, tensor cores level by level, or all levels of a
// forward pass in one kernel.
enum class DenseBlockKernel : int { kPlain, kLayerwise, kFused };

// The properties of a device that decide.
struct DenseBlockDevice {
  int capability;       // 10 * major + minor
  int multiprocessors;  // their number
  int shared_bytes;     // that one thread block may use
};

struct DenseBlockOptions {
  DenseBlockOperand operand;
  bool fused;              // wanted where it is possible
  size_t workspace_limit;  // bytes
};

// Bytes of device memory that a call needs as `workspace`, on the current device: at most about
// options.workspace_limit, but never less than one small tile of the image takes.
size_t dense_block_workspace_bytes(const DenseBlockShape& shape, DType dtype, const DenseBlockOptions& options,
                                   bool backward);

// On the current device, on `stream` (a cudaStream_t). `workspace` is aligned to 256 bytes. No synchronisation, no
// allocation, no atomics: the same call gives the same bits. Throws std::runtime_error.
void dense_block_forward(const DenseBlockParams& params, const DenseBlockOptions& options, void* workspace,
                         void* stream);
void dense_block_backward(const DenseBlockBackwardParams& params, const DenseBlockOptions& options, void* workspace,
                          void* stream);

}  // namespace ivan_fast::cuda
