// Parameter gradients: where each thread adds them up, and out of there into tensors of the parameters' shapes.
#pragma once

#include "dense_block_pack.h"

namespace ivan_fast::cpu::dense {

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
    for (int o = 0; o < outputs; ++o) grad_biases[k - 1][o] = T(total(place.bias + o));
    const size_t inputs = size_t(net.in_channels) + size_t(k - 1) * growth;
    for (int s = 0; s < k; ++s) {
      const int channels = source_channels(net, s), real = s == 0 ? net.in_channels : growth;
      T* part = grad_weights[k - 1] + (s == 0 ? 0 : net.in_channels + size_t(s - 1) * growth) * 9;
      const bool transformed = winograd && !output && s > 0;
      // outputs innermost, as the accumulators have them
      for (int kh = 0; kh < 3; ++kh)
        for (int c = 0; c < real; ++c)
          for (int o = 0; o < outputs; ++o) {
            T* to = part + (size_t(o) * inputs + c) * 9 + 3 * kh;
            if (transformed) {
              const size_t at =
                  place.transformed + transformed_offset(net, s) + (size_t(kh * kFrequencies) * width + c) * width + o;
              double tap[3] = {};
              for (int f = 0; f < kFrequencies; ++f) {
                const double sum = total(at + size_t(f) * width * width);
                for (int kw = 0; kw < 3; ++kw) tap[kw] += kFilterTransform[f][kw] * sum;
              }
              for (int kw = 0; kw < 3; ++kw) to[kw] = T(tap[kw]);
              continue;
            }
            for (int kw = 0; kw < 3; ++kw) {
              const size_t tap = size_t(3 * kh + kw) * channels + c;
              const size_t at = dot ? o * source_offset(net, k, 1) + source_offset(net, s, 1) + tap
                                    : source_offset(net, s, width) + tap * width + o;
              to[kw] = T(total(place.weights + at));
            }
          }
    }
  }
}

}  // namespace ivan_fast::cpu::dense
