// Dense block of 3x3 convolutions: torch-free parameters and CPU entry points.
//
//   h_0 = x,  h_k = leaky(conv3x3(weights[k-1], [h_0 | .. | h_{k-1}]) + biases[k-1]) for k = 1 .. depth-1,
//   y = conv3x3(weights[depth-1], [h_0 | .. | h_{depth-1}]) + biases[depth-1],  zero padding 1,
//   leaky(v) = v > 0 ? v : negative_slope * v, whose derivative at 0 (and -0) is negative_slope.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ivan_fast/types.h"

namespace ivan_fast {

// What operands are rounded to before they are multiplied; sums are always in the tensor's own type.
enum class DenseBlockRounding : int { kNone, kBFloat16, kFloat16 };

struct DenseBlockShape {
  int64_t batch;         // N
  int64_t in_channels;   // channels of x
  int64_t out_channels;  // channels of y
  int64_t growth;        // channels of every hidden level
  int64_t depth;         // convolutions, 1 to 16
  int64_t height, width;
};

struct DenseBlockParams {
  DenseBlockShape shape;
  DType dtype;
  DenseBlockRounding rounding;
  bool winograd;               // allowed: convolutions in float32, without rounding, by Winograd F(4x4, 3x3)
  double negative_slope;       // at least 0
  Input x;                     // [N, in_channels, H, W]
  const void* const* weights;  // depth x [growth or out_channels, in_channels + k * growth, 3, 3], contiguous
  const void* const* biases;   // depth x [growth or out_channels]
  void* y;                     // [N, out_channels, H, W], contiguous
};

// An affine coupling whose subnet H is this dense block, walked back from its output (formulas: scalar.h).
//   kForward, of y2 = x2 e^s + g:      out = x2 = (y2 - g) e^-s,  grad_state = grad e^s,   grad_h = grad e^s x2 ds/dh
//   kInverse, of x2 = (y2 - g) e^-s:   out = x2 e^s,              grad_state = grad e^-s,  grad_h = -grad x2 ds/dh
enum class CouplingWalk : int { kNone, kForward, kInverse };

struct DenseBlockCoupling {
  CouplingWalk walk = CouplingWalk::kNone;
  DType dtype = DType::kFloat32;  // of everything here: the dense block's or float64
  double clamp = 0;
  Input state;                 // y2, or x2 [N, out_channels, H, W]
  Input g;                     // [N, out_channels, H, W]; kForward
  Input grad;                  // of the state [N, out_channels, H, W]
  void* out = nullptr;         // [N, out_channels, H, W], contiguous
  void* grad_state = nullptr;  // [N, out_channels, H, W], contiguous
};

struct DenseBlockBackwardParams {
  DenseBlockParams forward;  // y is written too: the same bits as dense_block_forward; null with a coupling
  Input grad_y;              // [N, out_channels, H, W]; with a coupling, made by it
  DenseBlockCoupling coupling;
  void* grad_x;               // [N, in_channels, H, W], contiguous
  void* const* grad_weights;  // shapes of weights, contiguous, overwritten
  void* const* grad_biases;   // shapes of biases, overwritten
};

namespace cpu {

// Runs body(i, context) for i in [0, count), at most one call per worker thread at a time, and returns when all are
// done.
using ParallelFor = void (*)(int64_t count, void (*body)(int64_t, void*), void* context);

// y and grad_x do not depend on `threads`. The parameter gradients are sums over pixels: equal bits for equal
// `threads`, workspace bound and instruction set, and otherwise they differ by rounding only (each is a sum of partial
// sums over at most 64 pixels, or 64 tiles of Winograd, added in float per thread and in double over threads).
// Throws std::bad_alloc, and std::runtime_error for a value outside the documented range.
void dense_block_forward(const DenseBlockParams& params, int threads, ParallelFor parallel_for);
void dense_block_backward(const DenseBlockBackwardParams& params, int threads, ParallelFor parallel_for);

// Upper bound for all that the calls work in (rings, packed weights, sums of gradients), all threads together, in
// bytes. Images too wide for it are cut into column strips, and fewer threads take part where it is small for their
// number. Never below what one thread needs for a strip of 32 columns. Process-wide; default 64 MiB or
// IVAN_FAST_WORKSPACE_MB.
void set_dense_block_workspace(size_t bytes);
size_t dense_block_workspace();

// Bytes that a call would work in, nothing computed: what is to stay below that bound.
size_t dense_block_planned_bytes(const DenseBlockParams& params, bool backward, bool coupled, int threads);

}  // namespace cpu
}  // namespace ivan_fast
