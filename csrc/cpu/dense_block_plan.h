// What the driver (dense_block.cpp) hands to the kernels compiled per instruction set (dense_block_kernel.cpp).
//
// Forward and input gradient are the same structure, a `Net`: source 0 (x, or grad_y), `hidden` levels that each
// read source 0 and all levels before, and an output level that reads everything. For the input gradient, level m
// is the masked gradient of hidden level hidden + 1 - m, with flipped and transposed weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"
#include "ivan_fast/dense_block.h"

namespace ivan_fast::cpu::dense {

constexpr int kMaxHidden = 15;
constexpr int kMaxSources = kMaxHidden + 1;
constexpr int kBlockVectors = 2;  // output channels are computed in blocks of this many vectors

// Winograd F(4x4, 3x3): tiles of kTile x kTile outputs from kPoints x kPoints products.
constexpr int kTile = 4;
constexpr int kPoints = kTile + 2;
constexpr int kFrequencies = kPoints * kPoints;
constexpr double kPointA = 0.75, kPointB = 1.5;  // interpolation points: 0, +-A, +-B, infinity

// Weights in the order the kernels read them (dense_block_pack.h, dense_block_winograd_weights.h). Channel counts of
// levels are padded to whole vectors with zeros.
template <typename T>
struct Net {
  int hidden;                         // hidden levels, L
  int in_channels;                    // of source 0, not padded
  int out_channels;                   // of the output level, not padded
  int width;                          // growth padded to vectors: pixel stride of hidden rows
  int in_width;                       // in_channels padded to vectors
  int out_width;                      // out_channels padded to vectors
  bool out_dot;                       // output level as dot products over input channels
  const T* weights[kMaxSources + 1];  // [1 .. L + 1]
  const T* bias[kMaxSources + 1];     // [1 .. L + 1], padded
};

enum class Rounding : int { kNone, kBFloat16, kFloat16 };

template <typename T>
struct Job {
  int64_t height, width;
  T slope;
  Rounding rounding;
  bool winograd;
  Net<T> net;  // forward
  const T* x;  // [N, net.in_channels, H, W]
  int64_t x_batch_stride;
  T* y;  // [N, net.out_channels, H, W]; not with a coupling
  // backward only:
  Net<T> gradient;  // mirrored: source 0 is grad_y, the output is grad_x; no bias
  const T* grad_y;  // [N, net.out_channels, H, W]; not with a coupling, which makes it
  int64_t grad_y_batch_stride;
  T* grad_x;  // [N, net.in_channels, H, W]
  DenseBlockCoupling coupling;
};

// One image's rows [row0, row1) and columns [col0, col1) of the outputs, in pixels; the stream recomputes the halo
// around it. With Winograd, both begin at multiples of kTile.
struct Tile {
  int64_t image, row0, row1, col0, col1;
};

class Team;

// What a worker computes of a tile: its columns are cut into `parts`, of which it does [first, last). With a team, the
// others do the rest at the same time.
struct Share {
  int parts, first, last;
  Team* team;
};

// Parameter gradients of one part of a tile: of level k, in the order of its weights, then its biases.
template <typename T>
struct Accumulators {
  T* weights[kMaxSources + 1];
  T* bias[kMaxSources + 1];
};

// Everything here has internal linkage: the file is compiled for several instruction sets.
template <typename T>
static inline int source_channels(const Net<T>& net, int s) {
  return s == 0 ? net.in_channels : net.width;
}

// Channels of the sources before s, as they are stored.
template <typename T>
static inline size_t channels_before(const Net<T>& net, int s) {
  return s == 0 ? 0 : size_t(net.in_channels) + size_t(s - 1) * net.width;
}

// Offset of source s within a level of `width` output channels (direct weights and their gradients alike).
template <typename T>
static inline size_t source_offset(const Net<T>& net, int s, int width) {
  return 9 * size_t(width) * channels_before(net, s);
}

// Output channels of level k as the kernels compute them.
template <typename T>
static inline int level_width(const Net<T>& net, int k) {
  return k <= net.hidden ? net.width : net.out_dot ? net.out_channels : net.out_width;
}

// Packed weights of level k.
template <typename T>
static inline size_t level_elements(const Net<T>& net, int k, bool winograd) {
  return (winograd ? kFrequencies : 9) * size_t(level_width(net, k)) * channels_before(net, k);
}

// Padded entries of a level's bias.
template <typename T>
static inline int bias_elements(const Net<T>& net, int k) {
  return k <= net.hidden ? net.width : net.out_width;
}

// The entry points of one instruction set for one element type.
template <typename T>
struct Kernels {
  int lanes;
  size_t (*workspace)(const Job<T>&, int64_t columns, int parts, bool backward);  // elements, for a tile so wide
  void (*forward)(const Job<T>&, const Tile&, const Share&, T* workspace);
  void (*backward)(const Job<T>&, const Tile&, const Share&, const Accumulators<T>*, T* workspace);  // [parts]
};

// Weights of level k and source s into Winograd's form, and the sum of gradients in that form back.
struct WinogradKernels {
  // taps of (output o, channel c) at from[o * out_stride + c * in_stride + q], q = 0 .. 8, or 8 .. 0 where mirrored
  void (*pack)(const Net<float>&, int k, int s, const float* from, int64_t out_stride, int64_t in_stride, bool mirrored,
               int outputs, int channels, float* level);
  // sums[slot * stride + ...]: accumulators of level k; to[o * out_stride + c * 9 + q]
  void (*reduce)(const Net<float>&, int k, int s, const float* sums, size_t stride, int64_t slots, int outputs,
                 int channels, float* to, int64_t out_stride);
};

struct KernelSet {
  Kernels<float> float32;
  Kernels<double> float64;
  WinogradKernels winograd;
};

}  // namespace ivan_fast::cpu::dense

namespace ivan_fast::cpu {
IVAN_ISA_DECLARE(const dense::KernelSet& dense_block_kernels())
}
