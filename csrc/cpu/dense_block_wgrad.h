// Parameter gradients of one row: grad_weights[kh][kw][c][o] += sum over pixels input[kh][pixel + kw - 1][c] *
// g[pixel][o].
//
// The sum over at most kGradientPixels pixels stays in registers and is then added to the accumulators: the inputs,
// gradients and accumulators of one kernel row share L1, and the long sum over an image is a sum of short ones.
#pragma once

#include "dense_block_plan.h"
#include "dense_block_vector.h"

namespace ivan_fast::cpu::IVAN_ISA {

constexpr int kGradientPixels = 64;

// total[i][n] += sum_p input[p][i] * g[p][n], I inputs and NB vectors of g.
template <typename T, int I, int NB>
IVAN_INLINE void gradient_block(const T* input, int64_t stride, const T* g, int64_t g_stride, int64_t pixels,
                                T* total) {
  constexpr int V = kLanes<T>;
  Vec<T> sum[I][NB] = {};
  for (int64_t p = 0; p < pixels; ++p, input += stride, g += g_stride) {
    Vec<T> gradient[NB];
#pragma GCC unroll 2
    for (int n = 0; n < NB; ++n) gradient[n] = load(g + n * V);
#pragma GCC unroll 16
    for (int i = 0; i < I; ++i) {
      const Vec<T> value = broadcast(input[i]);
#pragma GCC unroll 2
      for (int n = 0; n < NB; ++n) sum[i][n] = fma(value, gradient[n], sum[i][n]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < I; ++i)
#pragma GCC unroll 2
    for (int n = 0; n < NB; ++n) store(total + i * g_stride + n * V, load(total + i * g_stride + n * V) + sum[i][n]);
}

template <typename T, int I, int NB>
__attribute__((noinline)) static void gradient_function(const T* input, int64_t stride, const T* g, int64_t g_stride,
                                                        int64_t pixels, T* total) {
  gradient_block<T, I, NB>(input, stride, g, g_stride, pixels, total);
}

template <typename T>
using GradientFunction = void (*)(const T*, int64_t, const T*, int64_t, int64_t, T*);

// `length` inputs, cut into blocks of nearly equal size.
template <typename T, int NB>
static void gradient_blocks(const T* input, int64_t stride, int length, const T* g, int64_t g_stride, int64_t pixels,
                            T* total) {
  static constexpr GradientFunction<T> table[] = {
      gradient_function<T, 1, NB>,  gradient_function<T, 2, NB>,  gradient_function<T, 3, NB>,
      gradient_function<T, 4, NB>,  gradient_function<T, 5, NB>,  gradient_function<T, 6, NB>,
#if defined(IVAN_DENSE_BLOCK_14)
      gradient_function<T, 7, NB>,  gradient_function<T, 8, NB>,  gradient_function<T, 9, NB>,
      gradient_function<T, 10, NB>, gradient_function<T, 11, NB>, gradient_function<T, 12, NB>,
      gradient_function<T, 13, NB>, gradient_function<T, 14, NB>,
#endif
  };
  static_assert(sizeof(table) / sizeof(table[0]) == kBlockPixels);
  const int blocks = (length + kBlockPixels - 1) / kBlockPixels;
  for (int i = 0, b = 0; b < blocks; ++b) {
    const int size = length / blocks + (b < length % blocks);
    table[size - 1](input + i, stride, g, g_stride, pixels, total + i * g_stride);
    i += size;
  }
}

// total[i][o] += sum_p input[p][i] * g[p][o] for `length` inputs and `width` outputs.
template <typename T>
static void gradient_product(const T* input, int64_t stride, int length, const T* g, int width, int64_t pixels,
                             T* total) {
  constexpr int V = kLanes<T>;
  int v = 0;
  for (; v + 2 * V <= width; v += 2 * V) gradient_blocks<T, 2>(input, stride, length, g + v, width, pixels, total + v);
  for (; v < width; v += V) gradient_blocks<T, 1>(input, stride, length, g + v, width, pixels, total + v);
}

// total[o] += sum over pixels of g[pixel][o], for `count` of the `stride` channels, in sums over few pixels.
template <typename T>
static void bias_gradient(const T* g, int64_t pixels, int64_t stride, int count, T* total) {
  for (int64_t x = 0; x < pixels; x += kGradientPixels) {
    const int64_t end = pixels - x < kGradientPixels ? pixels : x + kGradientPixels;
    constexpr int V = kLanes<T>;
    int o = 0;
    for (; o + V <= count; o += V) {
      Vec<T> sum = {};
      for (int64_t p = x; p < end; ++p) sum += load(g + p * stride + o);
      store(total + o, load(total + o) + sum);
    }
    for (; o < count; ++o) {
      T sum = 0;
      for (int64_t p = x; p < end; ++p) sum += g[p * stride + o];
      total[o] += sum;
    }
  }
}

// The weights of level `level` for one row of its pre-activation gradient g[pixel][width].
template <typename T>
static void level_gradient(const dense::Net<T>& net, int level, const T* const (*rows)[3], const T* g, int64_t pixels,
                           T* total) {
  const int width = dense::level_width(net, level);
  for (int64_t x = 0; x < pixels; x += kGradientPixels) {
    const int64_t count = pixels - x < kGradientPixels ? pixels - x : kGradientPixels;
    for (int s = 0; s < level; ++s) {
      const int channels = dense::source_channels(net, s), length = 3 * channels;
      T* part = total + dense::source_offset(net, s, width);
      for (int kh = 0; kh < 3; ++kh, part += size_t(length) * width) {
        if (!rows[s][kh]) continue;
        gradient_product(rows[s][kh] + x * channels, channels, length, g + x * width, width, count, part);
      }
    }
  }
}

// The same for an output level of few channels, vectors along (kw, c): grad[pixel][channels],
// total[o][source][kh][kw][c].
template <typename T, int I>
IVAN_INLINE void dot_gradient_block(const T* input, int64_t stride, const T* g, int64_t g_stride, int64_t pixels,
                                    T* total) {
  constexpr int V = kLanes<T>;
  Vec<T> sum[I] = {};
  for (int64_t p = 0; p < pixels; ++p, input += stride, g += g_stride) {
    const Vec<T> gradient = broadcast(*g);
#pragma GCC unroll 12
    for (int i = 0; i < I; ++i) sum[i] = fma(load(input + i * V), gradient, sum[i]);
  }
#pragma GCC unroll 12
  for (int i = 0; i < I; ++i) store(total + i * V, load(total + i * V) + sum[i]);
}

// The same for `count` inputs that do not fill a vector; four sums so that additions do not wait for each other.
template <typename T>
static void dot_gradient_rest(const T* input, int count, int64_t stride, const T* g, int64_t g_stride, int64_t pixels,
                              T* total) {
  Vec<T> sum[4] = {};
  int64_t p = 0;
  for (; p + 4 <= pixels; p += 4)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      sum[i] = fma(load_first(input + (p + i) * stride, count), broadcast(g[(p + i) * g_stride]), sum[i]);
  for (; p < pixels; ++p) sum[0] = fma(load_first(input + p * stride, count), broadcast(g[p * g_stride]), sum[0]);
  const Vec<T> all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  for (int i = 0; i < count; ++i) total[i] += all[i];
}

// total[i] += sum over pixels of input[pixel][i] * g[pixel] for `length` inputs.
template <typename T>
static void dot_gradient(const T* input, int length, int64_t stride, const T* g, int64_t g_stride, int64_t pixels,
                         T* total) {
  constexpr int V = kLanes<T>;
  int i = 0;
  for (; i + 12 * V <= length; i += 12 * V)
    dot_gradient_block<T, 12>(input + i, stride, g, g_stride, pixels, total + i);
  for (; i + 3 * V <= length; i += 3 * V) dot_gradient_block<T, 3>(input + i, stride, g, g_stride, pixels, total + i);
  for (; i + V <= length; i += V) dot_gradient_block<T, 1>(input + i, stride, g, g_stride, pixels, total + i);
  if (i < length) dot_gradient_rest(input + i, length - i, stride, g, g_stride, pixels, total + i);
}

// g[pixel][out_channels]
template <typename T>
static void output_gradient_dot(const dense::Net<T>& net, const T* const (*rows)[3], const T* g, int64_t pixels,
                                T* total) {
  const int64_t outputs = net.out_channels;
  for (int64_t x = 0; x < pixels; x += kGradientPixels) {
    const int64_t count = pixels - x < kGradientPixels ? pixels - x : kGradientPixels;
    T* part = total;
    for (int64_t o = 0; o < outputs; ++o)
      for (int s = 0; s <= net.hidden; ++s) {
        const int channels = dense::source_channels(net, s), length = 3 * channels;
        for (int kh = 0; kh < 3; ++kh, part += length)
          if (rows[s][kh])
            dot_gradient(rows[s][kh] + x * channels, length, channels, g + x * outputs + o, outputs, count, part);
      }
  }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
