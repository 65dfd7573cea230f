// Weights into the order the kernels read.
#pragma once

#include <algorithm>
#include <vector>

#include "dense_block_plan.h"
#include "dense_block_rounding.h"
#include "ivan_fast/dense_block.h"

namespace ivan_fast::cpu::dense {

// G of F(4, 3): row f is (1, p, p^2) / product of (p - q) over the other finite points q; the last is infinity's.
inline constexpr double kWeightA = 1 / (2 * kPointA * kPointA * (kPointA * kPointA - kPointB * kPointB));
inline constexpr double kWeightB = 1 / (2 * kPointB * kPointB * (kPointB * kPointB - kPointA * kPointA));
inline constexpr double kFilterTransform[kFrequencies][3] = {
    {1 / (kPointA * kPointA * kPointB * kPointB), 0, 0},
    {kWeightA, kWeightA * kPointA, kWeightA * kPointA * kPointA},
    {kWeightA, -kWeightA * kPointA, kWeightA * kPointA * kPointA},
    {kWeightB, kWeightB * kPointB, kWeightB * kPointB * kPointB},
    {kWeightB, -kWeightB * kPointB, kWeightB * kPointB * kPointB},
    {0, 0, 1}};

template <typename T>
struct PackedNet {
  Net<T> net = {};
  std::vector<T> storage;
};

// Few output channels are cheaper as dot products: at most three quarters of the vectors they would fill.
inline bool use_dot(int64_t channels, int64_t padded) { return 4 * channels <= 3 * padded; }

inline int64_t padded(int64_t channels, int lanes) { return (channels + lanes - 1) / lanes * lanes; }

// Lays out a net whose level k (1 .. L + 1) has the 9 weights taps(k, o, s, c, kernel) from channel c of source s to
// output o, and bias(k, o). Every weight is read once, in order; what is not written stays the zero of the padding.
template <typename T, typename Taps, typename Bias>
PackedNet<T> pack(int hidden, int64_t in_channels, int64_t out_channels, int64_t growth, int lanes, Rounding rounding,
                  bool winograd, const Taps& taps, const Bias& bias) {
  PackedNet<T> packed;
  Net<T>& net = packed.net;
  net.hidden = hidden;
  net.in_channels = int(in_channels);
  net.out_channels = int(out_channels);
  net.width = int(padded(growth, lanes));
  net.out_width = int(padded(out_channels, lanes));
  net.out_dot = use_dot(out_channels, net.out_width);
  constexpr size_t kLine = 64 / sizeof(T);  // parts begin at cache lines, so that no vector of weights straddles two
  size_t weights_at[kMaxSources + 1] = {}, bias_at[kMaxSources + 1] = {}, transformed_at[kMaxSources + 1] = {}, end = 0;
  const auto reserve = [&](size_t elements) {
    const size_t begin = end;
    end += (elements + kLine - 1) / kLine * kLine;
    return begin;
  };
  for (int k = 1; k <= hidden + 1; ++k) {
    const bool output = k == hidden + 1;
    const int width = output ? net.out_width : net.width;
    weights_at[k] =
        reserve(source_offset(net, winograd && !output ? 1 : k, output && net.out_dot ? net.out_channels : width));
    transformed_at[k] = reserve(winograd && !output ? transformed_offset(net, k) : 0);
    bias_at[k] = reserve(width);
  }
  packed.storage.assign(end + kLine, T(0));
  T* base = packed.storage.data();
  base += (64 - reinterpret_cast<uintptr_t>(base) % 64) % 64 / sizeof(T);
  const int64_t block = kBlockVectors * lanes;
  for (int k = 1; k <= hidden + 1; ++k) {
    const bool output = k == hidden + 1, dot = output && net.out_dot;
    const int64_t outputs = output ? out_channels : growth, width = output ? net.out_width : net.width;
    T* direct = base + weights_at[k];
    for (int64_t o = 0; o < outputs; ++o) {
      const int64_t first = o / block * block, in_block = o - first, block_width = std::min(block, width - first);
      base[bias_at[k] + o] = bias(k, o);
      for (int s = 0; s < k; ++s) {
        const int64_t channels = source_channels(net, s), real = s == 0 ? in_channels : growth;
        T* to = dot ? direct + o * source_offset(net, k, 1) + source_offset(net, s, 1)
                    : direct + source_offset(net, s, int(width)) + first * 9 * channels + in_block;
        const int64_t step = dot ? 1 : block_width;
        for (int64_t c = 0; c < real; ++c) {
          T kernel[9];
          taps(k, o, s, c, kernel);
          if (!winograd || output || s == 0) {
            for (int q = 0; q < 9; ++q) to[(q * channels + c) * step] = kernel[q];
            continue;
          }
          T* transformed = base + transformed_at[k] + transformed_offset(net, s) + first * 3 * width + in_block;
          for (int kh = 0; kh < 3; ++kh)
            for (int f = 0; f < kFrequencies; ++f)
              transformed[f * 3 * width * width + (kh * width + c) * block_width] =
                  T(kFilterTransform[f][0] * kernel[3 * kh] + kFilterTransform[f][1] * kernel[3 * kh + 1] +
                    kFilterTransform[f][2] * kernel[3 * kh + 2]);
        }
      }
    }
    round_values(direct, int64_t(transformed_at[k] - weights_at[k]), rounding);
    net.weights[k] = direct;
    net.bias[k] = base + bias_at[k];
    net.transformed[k] = base + transformed_at[k];
  }
  return packed;
}

template <typename T>
PackedNet<T> pack_forward(const DenseBlockShape& shape, const T* const* weights, const T* const* biases, int lanes,
                          Rounding rounding, bool winograd) {
  const int64_t in = shape.in_channels, growth = shape.growth;
  const auto taps = [&](int k, int64_t o, int s, int64_t c, T* kernel) {
    const int64_t channel = s == 0 ? c : in + (s - 1) * growth + c;
    const T* from = weights[k - 1] + (o * (in + (k - 1) * growth) + channel) * 9;
    for (int q = 0; q < 9; ++q) kernel[q] = from[q];
  };
  const auto bias = [&](int k, int64_t o) { return biases[k - 1][o]; };
  return pack<T>(int(shape.depth) - 1, in, shape.out_channels, growth, lanes, rounding, winograd, taps, bias);
}

// The mirrored net: level m (1 .. L) is the gradient of h_j, j = L + 1 - m, and the output that of x (j = 0). Its
// source 0 is grad_y, read through level L + 1 of the forward net; source s is the gradient of h_(L + 1 - s), through
// that level.
template <typename T>
PackedNet<T> pack_gradient(const DenseBlockShape& shape, const T* const* weights, int lanes, Rounding rounding,
                           bool winograd) {
  const int hidden = int(shape.depth) - 1;
  const int64_t in = shape.in_channels, growth = shape.growth;
  const auto taps = [&](int m, int64_t o, int s, int64_t c, T* kernel) {
    const int level = hidden + 1 - s, j = hidden + 1 - m;
    const int64_t channel = j == 0 ? o : in + (j - 1) * growth + o;
    const T* from = weights[level - 1] + (c * (in + (level - 1) * growth) + channel) * 9;
    for (int q = 0; q < 9; ++q) kernel[q] = from[8 - q];
  };
  const auto bias = [](int, int64_t) { return T(0); };
  return pack<T>(hidden, shape.out_channels, in, growth, lanes, rounding, winograd, taps, bias);
}

}  // namespace ivan_fast::cpu::dense
