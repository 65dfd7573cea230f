// What the driver (dense_block.cpp) hands to the kernels compiled per instruction set (dense_block_isa.cpp).
//
// Forward and input gradient are the same structure, a `Net`: source 0 (x, or grad_y), `hidden` levels that each
// read source 0 and all levels before, and an output level that reads everything. For the input gradient, level m
// is the masked gradient of hidden level hidden + 1 - m, with flipped and transposed weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace ivan_fast::cpu::dense {

constexpr int kMaxHidden = 15;
constexpr int kMaxSources = kMaxHidden + 1;
constexpr int kTile = 4;  // columns of a Winograd tile
constexpr int kFrequencies = kTile + 2;
constexpr double kPointA = 0.75, kPointB = 1.5;  // interpolation points: 0, +-A, +-B, infinity
constexpr int kBlockVectors = 2;                 // output channels are computed in blocks of this many vectors

// Packed weights of a level: for each source s, for each block of output vectors, for kh, for kw, for channel c of
// the source: the block's output channels. Channel counts of levels are padded to whole vectors with zeros.
template <typename T>
struct Net {
  int hidden;                         // hidden levels, L
  int in_channels;                    // of source 0, not padded
  int out_channels;                   // of the output level, not padded
  int width;                          // growth padded to vectors: pixel stride of hidden rows
  int out_width;                      // out_channels padded to vectors
  bool out_dot;                       // output level as dot products: weights [oc][source][kh][kw][c]
  const T* weights[kMaxSources + 1];  // [1 .. L + 1]
  const T* bias[kMaxSources + 1];     // [1 .. L + 1], padded
  // Winograd: G w of hidden levels and sources, for each source s >= 1 [f][block][kh][c][the block's outputs].
  const T* transformed[kMaxSources + 1];  // [2 .. L]
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
  T* y;  // [N, net.out_channels, H, W]
  // backward only:
  Net<T> gradient;  // mirrored: source 0 is grad_y, the output is grad_x; no bias
  const T* grad_y;  // [N, net.out_channels, H, W]
  int64_t grad_y_batch_stride;
  T* grad_x;  // [N, net.in_channels, H, W]
};

// One image's rows [row0, row1) and columns [col0, col1) of the outputs; the stream recomputes the halo around it.
struct Tile {
  int64_t image, row0, row1, col0, col1;
};

// Parameter gradients of one thread, in elements: level k (1 .. L + 1) holds for each source s, for kh, for kw, for c:
// the level's padded output channels; with out_dot the output level is [oc][source][kh][kw][c]. Then the biases.
template <typename T>
struct Accumulators {
  T* transformed[kMaxSources + 1];  // [2 .. L]: for each source s >= 1 [kh][f][c][o]
  T* weights[kMaxSources + 1];
  T* bias[kMaxSources + 1];
};

// Everything here has internal linkage: the file is compiled for several instruction sets.
template <typename T>
static inline int source_channels(const Net<T>& net, int s) {
  return s == 0 ? net.in_channels : net.width;
}

// Offset of source s within a level of `width` output channels (packed weights and their gradients alike).
template <typename T>
static inline size_t source_offset(const Net<T>& net, int s, int out_width) {
  return s == 0 ? 0 : size_t(9) * out_width * (size_t(net.in_channels) + size_t(s - 1) * net.width);
}

// Offset of source s >= 1 within a level's transformed weights or their gradients.
template <typename T>
static inline size_t transformed_offset(const Net<T>& net, int s) {
  return size_t(s - 1) * 3 * kFrequencies * net.width * net.width;
}

// Row rings: level k computes row t - lag at step t, and its oldest reader needs row t - oldest.
struct RingSizes {
  int x, grad_y;
  int hidden[kMaxSources], gradient[kMaxSources];  // [1 .. L]
};
static inline RingSizes ring_sizes(int hidden, bool backward) {
  RingSizes size = {};
  const int L = hidden;
  auto larger = [](int a, int b) { return a > b ? a : b; };
  size.x = 1 + (backward ? larger(L + 1, 2 * L - 1) : L + 1) + 1;
  for (int k = 1; k <= L; ++k) size.hidden[k] = (backward ? larger(L + 1, 2 * L - 1 - k) : L + 1) - (k - 1) + 1;
  if (!backward) return size;
  size.grad_y = larger(L + 3, 4);
  for (int m = 1; m <= L; ++m) size.gradient[m] = L + 3 - m;
  return size;
}

// Columns (and rows) beyond a tile on each side that a stream reads of x.
static inline int halo(int hidden, bool backward) { return backward && hidden > 0 ? 2 * hidden : hidden + 1; }

// Elements of workspace for a tile at most `columns` wide.
template <typename T>
static inline size_t workspace_elements(const Job<T>& job, int64_t columns, bool backward) {
  const RingSizes size = ring_sizes(job.net.hidden, backward);
  const size_t scale = job.winograd ? kTile : 1;
  const size_t pixels =
      (size_t(columns) + 2 * scale * halo(job.net.hidden, backward) + 2 + 2 * scale - 1) / scale * scale;
  const size_t transformed_channels = job.winograd ? size_t(job.net.width) * kFrequencies / kTile : 0;
  size_t channels = size_t(size.x) * job.net.in_channels + size_t(size.grad_y) * job.net.out_channels;
  for (int k = 1; k <= job.net.hidden; ++k)
    channels += size_t(size.hidden[k] + size.gradient[k]) * (job.net.width + transformed_channels);
  channels += job.net.out_width > job.gradient.out_width ? job.net.out_width : job.gradient.out_width;
  channels += 2 * transformed_channels;
  if (job.winograd) {  // flags
    channels += 1;
    for (int k = 1; k < job.net.hidden; ++k) channels += size_t(size.hidden[k]);
  }
  const size_t alignment_slack = size_t(8 + 5 * kMaxSources) * 16;
  return pixels * channels + alignment_slack;
}

// The entry points of one instruction set for one element type.
template <typename T>
struct Kernels {
  int lanes;
  void (*forward)(const Job<T>&, const Tile&, T* workspace);
  void (*backward)(const Job<T>&, const Tile&, const Accumulators<T>&, T* workspace);
};
struct KernelSet {
  Kernels<float> float32;
  Kernels<double> float64;
};

}  // namespace ivan_fast::cpu::dense

namespace ivan_fast::cpu {
IVAN_ISA_DECLARE(const dense::KernelSet& dense_block_kernels())
}
