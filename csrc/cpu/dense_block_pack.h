// Weights into the order the kernels read, and gradients back out of it.
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
  std::vector<T> storage;  // the net's weights begin at its first 64-byte boundary
};

// Few output channels are cheaper as dot products: at most three quarters of the vectors they would fill.
inline bool use_dot(int64_t channels, int64_t padded) { return 4 * channels <= 3 * padded; }

inline int64_t padded(int64_t channels, int lanes) { return (channels + lanes - 1) / lanes * lanes; }

// Lays out a net whose level k (1 .. L + 1) has weight(k, o, s, c, kh, kw) from channel c of source s to output o, and
// bias(k, o). width and growth of hidden levels are common to all.
template <typename T, typename Weight, typename Bias>
PackedNet<T> pack(int hidden, int64_t in_channels, int64_t out_channels, int64_t growth, int lanes, Rounding rounding,
                  bool winograd, const Weight& weight, const Bias& bias) {
  PackedNet<T> packed;
  Net<T>& net = packed.net;
  net.hidden = hidden;
  net.in_channels = int(in_channels);
  net.out_channels = int(out_channels);
  net.width = int(padded(growth, lanes));
  net.out_width = int(padded(out_channels, lanes));
  net.out_dot = use_dot(out_channels, net.out_width);
  std::vector<T>& w = packed.storage;
  std::vector<size_t> weights_at(size_t(hidden) + 2), bias_at(size_t(hidden) + 2), transformed_at(size_t(hidden) + 2);
  const int block = kBlockVectors * lanes;
  for (int k = 1; k <= hidden + 1; ++k) {
    const bool output = k == hidden + 1;
    const int64_t outputs = output ? out_channels : growth;
    const int width = output ? net.out_width : net.width;
    const auto value = [&](int64_t o, int s, int64_t c, int kh, int kw) {
      const int64_t channels = s == 0 ? in_channels : growth;
      return o < outputs && c < channels ? weight(k, o, s, c, kh, kw) : T(0);
    };
    weights_at[k] = w.size();
    if (output && net.out_dot) {
      for (int64_t o = 0; o < outputs; ++o)
        for (int s = 0; s < k; ++s)
          for (int q = 0; q < 9; ++q)
            for (int c = 0; c < source_channels(net, s); ++c) w.push_back(value(o, s, c, q / 3, q % 3));
    } else {
      for (int s = 0; s < (winograd && !output ? 1 : k); ++s)
        for (int first = 0; first < width; first += block)
          for (int q = 0; q < 9; ++q)
            for (int c = 0; c < source_channels(net, s); ++c)
              for (int o = first; o < width && o < first + block; ++o) w.push_back(value(o, s, c, q / 3, q % 3));
    }
    transformed_at[k] = w.size();
    if (winograd && !output)
      for (int s = 1; s < k; ++s)
        for (int f = 0; f < kFrequencies; ++f)
          for (int first = 0; first < width; first += block)
            for (int kh = 0; kh < 3; ++kh)
              for (int c = 0; c < net.width; ++c)
                for (int o = first; o < width && o < first + block; ++o)
                  w.push_back(T(kFilterTransform[f][0] * value(o, s, c, kh, 0) +
                                kFilterTransform[f][1] * value(o, s, c, kh, 1) +
                                kFilterTransform[f][2] * value(o, s, c, kh, 2)));
    round_values(w.data() + weights_at[k], int64_t(w.size() - weights_at[k]), rounding);
    bias_at[k] = w.size();
    for (int o = 0; o < width; ++o) w.push_back(o < outputs ? bias(k, o) : T(0));
    while (w.size() % (64 / sizeof(T)) != 0) w.push_back(T(0));
  }
  w.resize(w.size() + 64 / sizeof(T));  // so that no vector of weights straddles two cache lines
  const size_t shift = (64 - reinterpret_cast<uintptr_t>(w.data()) % 64) % 64 / sizeof(T);
  std::move_backward(w.begin(), w.end() - 64 / sizeof(T), w.end() - 64 / sizeof(T) + shift);
  for (int k = 1; k <= hidden + 1; ++k) {
    net.weights[k] = w.data() + shift + weights_at[k];
    net.bias[k] = w.data() + shift + bias_at[k];
    net.transformed[k] = w.data() + shift + transformed_at[k];
  }
  return packed;
}

template <typename T>
PackedNet<T> pack_forward(const DenseBlockShape& shape, const T* const* weights, const T* const* biases, int lanes,
                          Rounding rounding, bool winograd) {
  const int64_t in = shape.in_channels, growth = shape.growth;
  const auto weight = [&](int k, int64_t o, int s, int64_t c, int kh, int kw) {
    const int64_t channel = s == 0 ? c : in + (s - 1) * growth + c;
    return weights[k - 1][((o * (in + (k - 1) * growth) + channel) * 3 + kh) * 3 + kw];
  };
  const auto bias = [&](int k, int64_t o) { return biases[k - 1][o]; };
  return pack<T>(int(shape.depth) - 1, in, shape.out_channels, growth, lanes, rounding, winograd, weight, bias);
}

// The mirrored net: level m (1 .. L) is the gradient of h_j, j = L + 1 - m, and the output that of x (j = 0). Its
// source 0 is grad_y, read through level L + 1 of the forward net; source s is the gradient of h_(L + 1 - s), through
// that level.
template <typename T>
PackedNet<T> pack_gradient(const DenseBlockShape& shape, const T* const* weights, int lanes, Rounding rounding,
                           bool winograd) {
  const int hidden = int(shape.depth) - 1;
  const int64_t in = shape.in_channels, growth = shape.growth;
  const auto weight = [&](int m, int64_t o, int s, int64_t c, int kh, int kw) {
    const int level = hidden + 1 - s, j = hidden + 1 - m;
    const int64_t channel = j == 0 ? o : in + (j - 1) * growth + o;
    return weights[level - 1][((c * (in + (level - 1) * growth) + channel) * 3 + (2 - kh)) * 3 + (2 - kw)];
  };
  const auto bias = [](int, int64_t) { return T(0); };
  return pack<T>(hidden, shape.out_channels, in, growth, lanes, rounding, winograd, weight, bias);
}

// Places of the gradients of one level in a thread's accumulators; `end` is where the next level begins.
struct LevelPlace {
  size_t weights, bias, transformed, end;
};

template <typename T>
LevelPlace place_level(const Net<T>& net, int k, bool winograd, size_t begin) {
  const bool output = k == net.hidden + 1;
  const int width = output ? (net.out_dot ? net.out_channels : net.out_width) : net.width;
  LevelPlace place = {};
  place.weights = begin;
  place.bias = begin + source_offset(net, winograd && !output ? 1 : k, width);
  place.transformed = (place.bias + width + 15) / 16 * 16;
  place.end = place.transformed + (winograd && !output ? transformed_offset(net, k) : 0);
  return place;
}

template <typename T>
size_t accumulator_elements(const Net<T>& net, bool winograd) {
  size_t end = 0;
  for (int k = 1; k <= net.hidden + 1; ++k) end = place_level(net, k, winograd, end).end;
  return end;
}

template <typename T>
Accumulators<T> place_accumulators(const Net<T>& net, bool winograd, T* base) {
  Accumulators<T> sums = {};
  size_t end = 0;
  for (int k = 1; k <= net.hidden + 1; ++k) {
    const LevelPlace place = place_level(net, k, winograd, end);
    sums.weights[k] = base + place.weights;
    sums.bias[k] = base + place.bias;
    sums.transformed[k] = base + place.transformed;
    end = place.end;
  }
  return sums;
}

// Sums the threads' accumulators, in order and in double, into tensors of the parameters' shapes.
template <typename T>
void reduce_gradients(const Net<T>& net, bool winograd, const T* sums, size_t stride, int64_t slots,
                      T* const* grad_weights, T* const* grad_biases, int growth) {
  const auto total = [&](size_t at) {
    double sum = 0;
    for (int64_t slot = 0; slot < slots; ++slot) sum += double(sums[size_t(slot) * stride + at]);
    return sum;
  };
  size_t end = 0;
  for (int k = 1; k <= net.hidden + 1; ++k) {
    const LevelPlace place = place_level(net, k, winograd, end);
    end = place.end;
    const bool output = k == net.hidden + 1, dot = output && net.out_dot;
    const int outputs = output ? net.out_channels : growth, width = output ? net.out_width : net.width;
    const auto direct_tap = [&](int o, int s, int c, int q) {
      const size_t tap = size_t(q) * source_channels(net, s) + c;
      return total(place.weights + (dot ? o * source_offset(net, k, 1) + source_offset(net, s, 1) + tap
                                        : source_offset(net, s, width) + tap * width + o));
    };
    T* to = grad_weights[k - 1];
    for (int o = 0; o < outputs; ++o) {
      grad_biases[k - 1][o] = T(total(place.bias + o));
      for (int s = 0; s < k; ++s)
        for (int c = 0; c < (s == 0 ? net.in_channels : growth); ++c, to += 9) {
          if (!winograd || output || s == 0) {
            for (int q = 0; q < 9; ++q) to[q] = T(direct_tap(o, s, c, q));
            continue;
          }
          for (int kh = 0; kh < 3; ++kh) {
            double tap[3] = {};
            for (int f = 0; f < kFrequencies; ++f) {
              const size_t at = (size_t(kh * kFrequencies + f) * width + c) * width + o;
              const double sum = total(place.transformed + transformed_offset(net, s) + at);
              for (int kw = 0; kw < 3; ++kw) tap[kw] += kFilterTransform[f][kw] * sum;
            }
            for (int kw = 0; kw < 3; ++kw) to[kh * 3 + kw] = T(tap[kw]);
          }
        }
    }
  }
}

}  // namespace ivan_fast::cpu::dense
