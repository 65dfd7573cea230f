// Winograd F(4, 3) along rows: four neighbouring outputs of a 3-tap filter from six products instead of twelve.
//
// A row of the image is cut into tiles of four outputs (tile i: columns 4 i .. 4 i + 3, read from 4 i - 1 .. 4 i + 4).
// Each new hidden row is transformed once, V_f = (B^T d)_f for f = 0 .. 5, and serves every later level, all three of
// their kernel rows, and the weight gradient. With U = G w per filter row and M_f = sum over sources, kernel rows and
// channels of V_f U_f, the outputs are A^T M. The weight gradient is G^T sum over tiles of V_f (A g)_f.
// Points 0, 3/4, -3/4, 3/2, -3/2, infinity: exact in binary, and they round about 1.3 times as coarsely as a direct sum
// where the usual 0, 1, -1, 2, -2 do so 1.9 times.
// Tiles are anchored at the image's column 0, so results do not depend on strips.
// An output whose own inputs are all exactly 0 is exactly 0, as in a direct sum, though others of its tile are not:
// the noise would otherwise decide LeakyReLU's derivative in the black background of an image under zero biases.
#pragma once

#include "dense_block_gemm.h"
#include "dense_block_wgrad.h"

namespace ivan_fast::cpu::IVAN_ISA {

using dense::kFrequencies;
using dense::kTile;

// Transformed rows are [frequency][tile][channel], `plane` values a frequency.
template <typename T>
static void transform_input(const T* row, int64_t tiles, int channels, T* out, int64_t plane) {
  constexpr int V = kLanes<T>;
  constexpr T a = dense::kPointA, b = dense::kPointB, a2 = a * a, b2 = b * b;
  for (int64_t tile = 0; tile < tiles; ++tile, row += kTile * channels, out += channels)
    for (int c = 0; c < channels; c += V) {
      Vec<T> d[6];
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) d[i] = load(row + i * channels + c);
      const Vec<T> even_a = fma(broadcast(-b2), d[2], d[4]), odd_a = a * fma(broadcast(-b2), d[1], d[3]);
      const Vec<T> even_b = fma(broadcast(-a2), d[2], d[4]), odd_b = b * fma(broadcast(-a2), d[1], d[3]);
      T* to = out + c;
      store(to, fma(broadcast(a2 * b2), d[0], fma(broadcast(-(a2 + b2)), d[2], d[4])));
      store(to + plane, even_a + odd_a);
      store(to + 2 * plane, even_a - odd_a);
      store(to + 3 * plane, even_b + odd_b);
      store(to + 4 * plane, even_b - odd_b);
      store(to + 5 * plane, fma(broadcast(a2 * b2), d[1], fma(broadcast(-(a2 + b2)), d[3], d[5])));
    }
}

// A g for the weight gradient: six values from four.
template <typename T>
static void transform_gradient(const T* row, int64_t tiles, int channels, T* out) {
  constexpr int V = kLanes<T>;
  constexpr T a = dense::kPointA, b = dense::kPointB;
  const int64_t plane = tiles * channels;
  for (int64_t tile = 0; tile < tiles; ++tile, row += kTile * channels, out += channels)
    for (int c = 0; c < channels; c += V) {
      Vec<T> g[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) g[i] = load(row + i * channels + c);
      const Vec<T> even_a = fma(broadcast(a * a), g[2], g[0]), odd_a = a * fma(broadcast(a * a), g[3], g[1]);
      const Vec<T> even_b = fma(broadcast(b * b), g[2], g[0]), odd_b = b * fma(broadcast(b * b), g[3], g[1]);
      T* to = out + c;
      store(to, g[0]);
      store(to + plane, even_a + odd_a);
      store(to + 2 * plane, even_a - odd_a);
      store(to + 3 * plane, even_b + odd_b);
      store(to + 4 * plane, even_b - odd_b);
      store(to + 5 * plane, g[3]);
    }
}

// out += A^T m for the `pixels` outputs of the row (not where `alive` is 0), then the activation or the mask.
template <typename T>
static void transform_output(const T* m, int64_t pixels, int channels, Finish finish, const T* mask, const T* alive,
                             T slope, T* out) {
  constexpr int V = kLanes<T>;
  constexpr T a = dense::kPointA, b = dense::kPointB, a2 = a * a, b2 = b * b;
  const int64_t plane = (pixels + kTile - 1) / kTile * channels;
  for (int64_t x = 0; x < pixels; x += kTile, m += channels) {
    const int count = pixels - x < kTile ? int(pixels - x) : kTile;
    for (int c = 0; c < channels; c += V) {
      Vec<T> f[6];
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) f[i] = load(m + i * plane + c);
      const Vec<T> sum_a = f[1] + f[2], sum_b = f[3] + f[4], difference_a = f[1] - f[2], difference_b = f[3] - f[4];
      const Vec<T> y[kTile] = {f[0] + sum_a + sum_b, fma(broadcast(a), difference_a, b * difference_b),
                               fma(broadcast(a2), sum_a, b2 * sum_b),
                               fma(broadcast(a2 * a), difference_a, fma(broadcast(b2 * b), difference_b, f[5]))};
      for (int i = 0; i < count; ++i) {
        T* to = out + (x + i) * channels + c;
        Vec<T> v = load(to);
        if (!alive || alive[x + i] != T(0)) v += y[i];
        if (finish == Finish::kLeaky) v = v > T(0) ? v : v * slope;
        if (finish == Finish::kMask) v = load(mask + (x + i) * channels + c) > T(0) ? v : v * slope;
        store(to, v);
      }
    }
  }
}

// flags[pixel] = whether any channel of the pixel differs from 0.
template <typename T>
static void mark_nonzero(const T* row, int64_t pixels, int channels, T* flags) {
  for (int64_t x = 0; x < pixels; ++x) flags[x] = any_nonzero(row + x * channels, channels / kLanes<T>) ? T(1) : T(0);
}

// alive[pixel] = 0 where the inputs of the pixel's output are 0 in all `count` rows of flags; rows begin at its left
// neighbour and may be null.
template <typename T>
static void mark_alive(const T* const* rows, int count, int64_t pixels, T* alive) {
  for (int64_t x = 0; x < pixels; ++x) alive[x] = T(0);
  for (int i = 0; i < count; ++i)
    if (const T* flags = rows[i])
      for (int64_t x = 0; x < pixels; ++x) alive[x] += flags[x] + flags[x + 1] + flags[x + 2];
}

// m[f][tile][width] = the products of a level's hidden sources 1 .. level - 1. rows[s][kh]: transformed rows, or null.
template <typename T>
static void winograd_products(const dense::Net<T>& net, int level, const T* const (*rows)[3], int64_t plane,
                              int64_t tiles, T* m) {
  constexpr int V = kLanes<T>;
  const int width = net.width, vectors = width / V;
  for (int f = 0; f < kFrequencies; ++f)
    for (int v = 0; v < vectors; v += dense::kBlockVectors) {
      const int nb = vectors - v < dense::kBlockVectors ? vectors - v : dense::kBlockVectors;
      const size_t segment = size_t(width) * nb * V;
      const int per_chunk = segments_per_chunk(segment * sizeof(T));
      Chunk<T> chunk = {};
      chunk.length = chunk.stride = width;
      const T zeros[dense::kBlockVectors * V] = {};
      chunk.start = zeros;
      T* out = m + f * tiles * width + v * V;
      const auto flush = [&] {
        if (nb == 2)
          row_of_blocks<T, 2>(chunk, tiles, out, width);
        else
          row_of_blocks<T, 1>(chunk, tiles, out, width);
        chunk.start = nullptr;
        chunk.segments = 0;
      };
      for (int s = 1; s < level; ++s) {
        const T* weights = net.transformed[level] + dense::transformed_offset(net, s) +
                           (size_t(f) * width + size_t(v) * V) * 3 * width;
        for (int kh = 0; kh < 3; ++kh) {
          if (!rows[s][kh]) continue;
          chunk.input[chunk.segments] = rows[s][kh] + f * plane;
          chunk.weights[chunk.segments] = weights + kh * segment;
          if (++chunk.segments == per_chunk) flush();
        }
      }
      if (chunk.segments > 0) flush();
    }
}

// total[s][kh][f][c][o] += sum over tiles V_f[tile][c] (A g)_f[tile][o] for a level's hidden sources.
template <typename T>
static void winograd_gradient(const dense::Net<T>& net, int level, const T* const (*rows)[3], int64_t plane, const T* g,
                              int64_t tiles, T* total) {
  const int width = net.width;
  for (int64_t x = 0; x < tiles; x += kGradientPixels) {
    const int64_t count = tiles - x < kGradientPixels ? tiles - x : kGradientPixels;
    for (int f = 0; f < kFrequencies; ++f)
      for (int s = 1; s < level; ++s)
        for (int kh = 0; kh < 3; ++kh) {
          if (!rows[s][kh]) continue;
          T* part = total + dense::transformed_offset(net, s) + size_t(kh * kFrequencies + f) * width * width;
          gradient_product(rows[s][kh] + f * plane + x * width, width, width, g + (f * tiles + x) * width, width, count,
                           part);
        }
  }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
