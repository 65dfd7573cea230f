// Weights into the order the kernels read, and gradients back out of it.
#pragma once

#include <algorithm>
#include <vector>

#include "dense_block_plan.h"
#include "dense_block_rounding.h"
#include "ivan_fast/dense_block.h"

namespace ivan_fast::cpu::dense {

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
                  const Weight& weight, const Bias& bias) {
  PackedNet<T> packed;
  Net<T>& net = packed.net;
  net.hidden = hidden;
  net.in_channels = int(in_channels);
  net.out_channels = int(out_channels);
  net.width = int(padded(growth, lanes));
  net.out_width = int(padded(out_channels, lanes));
  net.out_dot = use_dot(out_channels, net.out_width);
  std::vector<T>& w = packed.storage;
  std::vector<size_t> weights_at(size_t(hidden) + 2), bias_at(size_t(hidden) + 2);
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
      for (int s = 0; s < k; ++s)
        for (int first = 0; first < width; first += block)
          for (int q = 0; q < 9; ++q)
            for (int c = 0; c < source_channels(net, s); ++c)
              for (int o = first; o < width && o < first + block; ++o) w.push_back(value(o, s, c, q / 3, q % 3));
    }
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
  }
  return packed;
}

template <typename T>
PackedNet<T> pack_forward(const DenseBlockShape& shape, const T* const* weights, const T* const* biases, int lanes,
                          Rounding rounding) {
  const int64_t in = shape.in_channels, growth = shape.growth;
  const auto weight = [&](int k, int64_t o, int s, int64_t c, int kh, int kw) {
    const int64_t channel = s == 0 ? c : in + (s - 1) * growth + c;
    return weights[k - 1][((o * (in + (k - 1) * growth) + channel) * 3 + kh) * 3 + kw];
  };
  const auto bias = [&](int k, int64_t o) { return biases[k - 1][o]; };
  return pack<T>(int(shape.depth) - 1, in, shape.out_channels, growth, lanes, rounding, weight, bias);
}

// The mirrored net: level m (1 .. L) is the gradient of h_j, j = L + 1 - m, and the output that of x (j = 0). Its
// source 0 is grad_y, read through level L + 1 of the forward net; source s is the gradient of h_(L + 1 - s), through
// that level.
template <typename T>
PackedNet<T> pack_gradient(const DenseBlockShape& shape, const T* const* weights, int lanes, Rounding rounding) {
  const int hidden = int(shape.depth) - 1;
  const int64_t in = shape.in_channels, growth = shape.growth;
  const auto weight = [&](int m, int64_t o, int s, int64_t c, int kh, int kw) {
    const int level = hidden + 1 - s, j = hidden + 1 - m;
    const int64_t channel = j == 0 ? o : in + (j - 1) * growth + o;
    return weights[level - 1][((c * (in + (level - 1) * growth) + channel) * 3 + (2 - kh)) * 3 + (2 - kw)];
  };
  const auto bias = [](int, int64_t) { return T(0); };
  return pack<T>(hidden, shape.out_channels, in, growth, lanes, rounding, weight, bias);
}

template <typename T>
size_t accumulator_elements(const Net<T>& net, int levels) {
  size_t elements = 0;
  for (int k = 1; k <= levels; ++k) {
    const bool output = k == net.hidden + 1;
    const int width = output ? (net.out_dot ? net.out_channels : net.out_width) : net.width;
    elements += (source_offset(net, k, width) + width + 15) / 16 * 16;
  }
  return elements;
}

template <typename T>
size_t accumulator_elements(const Net<T>& net) {
  return accumulator_elements(net, net.hidden + 1);
}

template <typename T>
Accumulators<T> place_accumulators(const Net<T>& net, T* base) {
  Accumulators<T> sums = {};
  for (int k = 1; k <= net.hidden + 1; ++k) {
    const bool output = k == net.hidden + 1;
    const int width = output ? (net.out_dot ? net.out_channels : net.out_width) : net.width;
    sums.weights[k] = base + accumulator_elements(net, k - 1);
    sums.bias[k] = sums.weights[k] + source_offset(net, k, width);
  }
  return sums;
}

// Sums the threads' accumulators, in order and in double, into tensors of the parameters' shapes.
template <typename T>
void reduce_gradients(const Net<T>& net, const T* sums, size_t stride, int64_t slots, T* const* grad_weights,
                      T* const* grad_biases, int growth) {
  const auto total = [&](size_t at) {
    double sum = 0;
    for (int64_t slot = 0; slot < slots; ++slot) sum += double(sums[size_t(slot) * stride + at]);
    return T(sum);
  };
  const Accumulators<T> place = place_accumulators<T>(net, const_cast<T*>(sums));
  for (int k = 1; k <= net.hidden + 1; ++k) {
    const bool output = k == net.hidden + 1;
    const int outputs = output ? net.out_channels : growth;
    const bool dot = output && net.out_dot;
    const int width = output ? net.out_width : net.width;
    const size_t weights_at = size_t(place.weights[k] - sums), bias_at = size_t(place.bias[k] - sums);
    T* to = grad_weights[k - 1];
    for (int o = 0; o < outputs; ++o) {
      grad_biases[k - 1][o] = total(bias_at + o);
      for (int s = 0; s < k; ++s)
        for (int c = 0; c < (s == 0 ? net.in_channels : growth); ++c)
          for (int q = 0; q < 9; ++q, ++to) {
            const int channels = source_channels(net, s);
            const size_t tap = size_t(q) * channels + c;
            *to = dot ? total(weights_at + o * source_offset(net, k, 1) + source_offset(net, s, 1) + tap)
                      : total(weights_at + source_offset(net, s, width) + tap * width + o);
          }
    }
  }
}

}  // namespace ivan_fast::cpu::dense
