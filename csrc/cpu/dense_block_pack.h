// Weights into the order the kernels read, and the sums of their gradients back into tensors of the parameters' shapes.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "dense_block_plan.h"
#include "dense_block_rounding.h"

namespace ivan_fast::cpu::dense {

template <typename T>
struct AlignedDelete {
  void operator()(T* p) const { std::free(p); }
};
template <typename T>
using Buffer = std::unique_ptr<T[], AlignedDelete<T>>;

template <typename T>
Buffer<T> allocate(size_t elements) {
  const size_t bytes = (elements * sizeof(T) + 63) / 64 * 64;
  Buffer<T> buffer(static_cast<T*>(std::aligned_alloc(64, bytes)));
  if (!buffer) throw std::bad_alloc();
  return buffer;
}

template <typename T>
struct PackedNet {
  Net<T> net = {};
  Buffer<T> storage;
};

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

// A net's sizes and places for its packed weights; padding is zero, biases are there (null: zeros), weights are not.
template <typename T>
PackedNet<T> prepare(int hidden, int64_t in_channels, int64_t out_channels, int64_t growth, int lanes, bool winograd,
                     const T* const* biases) {
  PackedNet<T> packed;
  Net<T>& net = packed.net;
  net.hidden = hidden;
  net.in_channels = int(in_channels);
  net.out_channels = int(out_channels);
  net.width = int(padded(growth, lanes));
  net.in_width = int(padded(in_channels, lanes));
  net.out_width = int(padded(out_channels, lanes));
  net.out_dot = use_dot(out_channels, net.out_width);
  constexpr size_t kLine = 64 / sizeof(T);  // parts begin at cache lines, so that no vector of weights straddles two
  size_t at[2 * (kMaxSources + 1)], end = 0;
  const auto reserve = [&](size_t elements) {
    const size_t begin = end;
    end += (elements + kLine - 1) / kLine * kLine;
    return begin;
  };
  for (int k = 1; k <= hidden + 1; ++k) {
    at[2 * k] = reserve(level_elements(net, k, winograd));
    at[2 * k + 1] = reserve(bias_elements(net, k));
  }
  packed.storage = allocate<T>(end);
  std::fill_n(packed.storage.get(), end, T(0));
  for (int k = 1; k <= hidden + 1; ++k) {
    net.weights[k] = packed.storage.get() + at[2 * k];
    T* bias = packed.storage.get() + at[2 * k + 1];
    net.bias[k] = bias;
    if (biases) std::copy_n(biases[k - 1], k <= hidden ? growth : out_channels, bias);
  }
  return packed;
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

// Where the gradients of each level stand in a thread's accumulators: weights, then biases.
template <typename T>
struct AccumulatorPlaces {
  size_t weights[kMaxSources + 1], bias[kMaxSources + 1], elements = 0;

  AccumulatorPlaces(const Net<T>& net, bool winograd) {
    const auto reserve = [&](size_t count) {
      const size_t begin = elements;
      elements += (count + 15) / 16 * 16;
      return begin;
    };
    for (int k = 1; k <= net.hidden + 1; ++k) {
      weights[k] = reserve(level_elements(net, k, winograd));
      bias[k] = reserve(bias_elements(net, k));
    }
  }
};

}  // namespace ivan_fast::cpu::dense
