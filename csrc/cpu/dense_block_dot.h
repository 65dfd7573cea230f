// The output level when it has few channels: dot products over the contiguous channels of each row, instead of
// sums over output channels that would leave most of a vector empty.
#pragma once

#include "dense_block_plan.h"
#include "dense_block_vector.h"

namespace ivan_fast::cpu::IVAN_ISA {

// out[q][x + p] for P pixels and Q channels. Per output: vector sums over source, kh, vectors of (kw, channel), the
// last of them filled up with zeros; then their lanes; then the bias.
template <typename T, int P, int Q>
IVAN_INLINE void dot_block(const dense::Net<T>& net, const T* const (*rows)[3], const T* weights, size_t weights_stride,
                           const T* bias, int64_t x, T* const* out) {
  constexpr int V = kLanes<T>;
  Vec<T> sum[P][Q] = {};
  for (int s = 0; s <= net.hidden; ++s) {
    const int64_t channels = dense::source_channels(net, s);
    const int length = int(3 * channels), rest = length % V, whole = length - rest;
    for (int kh = 0; kh < 3; ++kh, weights += length) {
      if (!rows[s][kh]) continue;
      const T* a = rows[s][kh] + x * channels;
      for (int i = 0; i < whole; i += V) {
        Vec<T> w[Q];
#pragma GCC unroll 2
        for (int q = 0; q < Q; ++q) w[q] = load(weights + q * weights_stride + i);
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) {
          const Vec<T> value = load(a + p * channels + i);
#pragma GCC unroll 2
          for (int q = 0; q < Q; ++q) sum[p][q] = fma(value, w[q], sum[p][q]);
        }
      }
      if (rest == 0) continue;
      Vec<T> w[Q];
#pragma GCC unroll 2
      for (int q = 0; q < Q; ++q) w[q] = load_first(weights + q * weights_stride + whole, rest);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const Vec<T> value = load_first(a + p * channels + whole, rest);
#pragma GCC unroll 2
        for (int q = 0; q < Q; ++q) sum[p][q] = fma(value, w[q], sum[p][q]);
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 2
    for (int q = 0; q < Q; ++q) out[q][x + p] = sum_lanes(sum[p][q]) + bias[q];
}

template <typename T, int Q>
static void dot_row(const dense::Net<T>& net, const T* const (*rows)[3], const T* weights, size_t weights_stride,
                    const T* bias, int64_t pixels, T* const* out) {
  constexpr int P = Q == 1 ? 8 : 6;
  int64_t x = 0;
  for (; x + P <= pixels; x += P) dot_block<T, P, Q>(net, rows, weights, weights_stride, bias, x, out);
  for (; x < pixels; ++x) dot_block<T, 1, Q>(net, rows, weights, weights_stride, bias, x, out);
}

// The output level's row: out[q] points at the first pixel of channel q.
template <typename T>
static void output_row_dot(const dense::Net<T>& net, const T* const (*rows)[3], int64_t pixels, T* first_channel,
                           int64_t channel_stride) {
  const size_t stride = dense::source_offset(net, net.hidden + 1, 1);
  const T* weights = net.weights[net.hidden + 1];
  const T* bias = net.bias[net.hidden + 1];
  for (int q = 0; q < net.out_channels; q += 2) {
    T* out[2] = {first_channel + q * channel_stride, first_channel + (q + 1) * channel_stride};
    if (q + 1 < net.out_channels)
      dot_row<T, 2>(net, rows, weights + q * stride, stride, bias + q, pixels, out);
    else
      dot_row<T, 1>(net, rows, weights + q * stride, stride, bias + q, pixels, out);
  }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
