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
  bool fused;              // all levels in one kernel where that is possible, else level by level: the same bits
  size_t workspace_limit;  // bytes
};

constexpr int kMaxNets = 2;

// One dense block of a call.
struct DenseBlockNet {
  const void* const* weights;  // as in DenseBlockParams
  const void* const* biases;
  void*
      y;  // [N, out_channels, H, W], contiguous; not used with a coupling; in a backward null for all nets: not wanted
  Input grad_y;               // [N, out_channels, H, W]; with a coupling, made by it
  void* const* grad_weights;  // shapes of weights, contiguous, overwritten
  void* const* grad_biases;   // shapes of biases, overwritten
};

// One dense block, or two of one shape on one input: G and H of a coupling.
struct DenseBlockCall {
  DenseBlockShape shape;
  DType dtype;
  double negative_slope;  // at least 0
  Input x;                // [N, in_channels, H, W]
  int nets;               // 1 or 2
  DenseBlockNet net[kMaxNets];
  // Backward only. The last net is H. Where there are two, the first is G, and coupling.g is not read; kInverse then
  // gives out = y2 = x2 e^s + g.
  DenseBlockCoupling coupling;
  void* grad_x;  // [N, in_channels, H, W], contiguous: the sum over the nets
};

// Whether callers should ask for the fused kernel: process-wide, at first what IVAN_FAST_CUDA_KERNEL says ("layerwise",
// the default, or "fused"; anything else throws std::runtime_error).
bool fused_selected();
void select_fused(bool fused);

// Bytes of device memory that a call of so many nets needs as `workspace`, on the current device: at most about
// options.workspace_limit, but never less than one small tile of the image takes.
size_t dense_block_workspace_bytes(const DenseBlockShape& shape, int nets, DType dtype,
                                   const DenseBlockOptions& options, DenseBlockPass pass);

// On the current device, on `stream` (a cudaStream_t). `workspace` is aligned to 256 bytes. No synchronisation, no
// allocation, no atomics: the same call gives the same bits. Throws std::runtime_error.
void dense_block_forward(const DenseBlockCall& call, const DenseBlockOptions& options, void* workspace, void* stream);
void dense_block_backward(const DenseBlockCall& call, const DenseBlockOptions& options, void* workspace, void* stream);

}  // namespace ivan_fast::cuda
