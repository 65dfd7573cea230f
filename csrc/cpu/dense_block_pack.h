// Weights into the order the kernels read, and the sums of their gradients back into tensors of the parameters' shapes.
#pragma once

#include <algorithm>

#include "dense_block_plan.h"
#include "dense_block_rounding.h"

namespace ivan_fast::cpu::dense {

// Few output channels are cheaper as dot products: at most three quarters of the vectors they would fill.
inline bool use_dot(int64_t channels, int64_t padded) { return 4 * channels <= 3 * padded; }

inline int64_t padded(int64_t channels, int lanes) { return (channels + lanes - 1) / lanes * lanes; }

// Where the taps of one source of one level stand in the parameters: of output o and channel c at
// from[o * out_stride + c * in_stride], 9 values, read backwards where mirrored.
template <typename T>
struct Taps {
  const T* from;
  int64_t out_stride, in_stride;
  bool mirrored;
  int outputs, channels;
};

template <typename T>
Taps<T> forward_taps(const DenseBlockShape& shape, const T* const* weights, int k, int s) {
  const int64_t in = shape.in_channels, growth = shape.growth;
  const int64_t first = s == 0 ? 0 : in + (s - 1) * growth;
  return {weights[k - 1] + first * 9,
          (in + (k - 1) * growth) * 9,
          9,
          false,
          int(k == shape.depth ? shape.out_channels : growth),
          int(s == 0 ? in : growth)};
}

// The mirrored net: level m (1 .. L) is the gradient of h_j, j = L + 1 - m, and the output that of x (j = 0). Its
// source 0 is grad_y, read through level L + 1 of the forward net; source s is the gradient of h_(L + 1 - s), through
// that level.
template <typename T>
Taps<T> gradient_taps(const DenseBlockShape& shape, const T* const* weights, int m, int s) {
  const Taps<T> forward = forward_taps(shape, weights, int(shape.depth) - s, int(shape.depth) - m);
  return {forward.from, forward.in_stride, forward.out_stride, true, forward.channels, forward.outputs};
}

// A net's sizes; its weights and biases have no place yet.
template <typename T>
Net<T> make_net(int hidden, int64_t in_channels, int64_t out_channels, int64_t growth, int lanes) {
  Net<T> net = {};
  net.hidden = hidden;
  net.in_channels = int(in_channels);
  net.out_channels = int(out_channels);
  net.width = int(padded(growth, lanes));
  net.in_width = int(padded(in_channels, lanes));
  net.out_width = int(padded(out_channels, lanes));
  net.out_dot = use_dot(out_channels, net.out_width);
  return net;
}

// Where each level's weights (or their gradients) and then its biases stand: parts begin at cache lines, so that no
// vector straddles two.
template <typename T>
struct LevelPlaces {
  size_t weights[kMaxSources + 1], bias[kMaxSources + 1], elements = 0;

  LevelPlaces(const Net<T>& net, bool winograd) {
    const auto reserve = [&](size_t count) {
      constexpr size_t kLine = 64 / sizeof(T);
      const size_t begin = elements;
      elements += (count + kLine - 1) / kLine * kLine;
      return begin;
    };
    for (int k = 1; k <= net.hidden + 1; ++k) {
      weights[k] = reserve(level_elements(net, k, winograd));
      bias[k] = reserve(bias_elements(net, k));
    }
  }
};

// Gives the net its places in `storage`: all zeros (the padding) but for the biases (null: zeros).
template <typename T>
void place_net(Net<T>& net, const LevelPlaces<T>& places, T* storage, const T* const* biases, int64_t growth) {
  std::fill_n(storage, places.elements, T(0));
  for (int k = 1; k <= net.hidden + 1; ++k) {
    net.weights[k] = storage + places.weights[k];
    net.bias[k] = storage + places.bias[k];
    if (biases) std::copy_n(biases[k - 1], k <= net.hidden ? growth : net.out_channels, storage + places.bias[k]);
  }
}

// Direct weights of level k and source s: for each block of output vectors, for kh, for kw, for channel: the block's
// output channels. With out_dot the output level is [o][source][kh][kw][c].
template <typename T>
void pack_direct(const Net<T>& net, int lanes, Rounding rounding, int k, int s, const Taps<T>& taps, T* level) {
  const bool dot = k == net.hidden + 1 && net.out_dot;
  const int width = level_width(net, k);
  const int64_t block = kBlockVectors * lanes, channels = source_channels(net, s);
  for (int64_t o = 0; o < taps.outputs; ++o) {
    const int64_t first = o / block * block, block_width = std::min<int64_t>(block, width - first);
    T* to = dot ? level + o * source_offset(net, k, 1) + source_offset(net, s, 1)
                : level + source_offset(net, s, width) + first * 9 * channels + o - first;
    const int64_t step = dot ? 1 : block_width;
    for (int64_t c = 0; c < taps.channels; ++c) {
      const T* from = taps.from + o * taps.out_stride + c * taps.in_stride;
      for (int q = 0; q < 9; ++q) {
        T value = from[taps.mirrored ? 8 - q : q];
        round_values(&value, 1, rounding);
        to[(q * channels + c) * step] = value;
      }
    }
  }
}

// Sums the threads' accumulators of a direct level, in order and in double: to[o * out_stride + c * 9 + q].
template <typename T>
void reduce_direct(const Net<T>& net, int k, int s, const T* sums, size_t stride, int64_t slots, const Taps<T>& taps,
                   T* to) {
  const bool dot = k == net.hidden + 1 && net.out_dot;
  const int width = level_width(net, k), channels = source_channels(net, s);
  // outputs innermost, as the accumulators have them
  for (int q = 0; q < 9; ++q)
    for (int c = 0; c < taps.channels; ++c)
      for (int64_t o = 0; o < taps.outputs; ++o) {
        const size_t tap = size_t(q) * channels + c;
        const size_t at = dot ? o * source_offset(net, k, 1) + source_offset(net, s, 1) + tap
                              : source_offset(net, s, width) + tap * width + o;
        double sum = 0;
        for (int64_t slot = 0; slot < slots; ++slot) sum += double(sums[size_t(slot) * stride + at]);
        to[o * taps.out_stride + c * 9 + q] = T(sum);
      }
}

}  // namespace ivan_fast::cpu::dense
