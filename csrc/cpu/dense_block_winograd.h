// The transforms of Winograd F(4x4, 3x3): 16 outputs of a 3x3 filter from 36 products instead of 144.
//
// The image is cut into tiles of 4x4 outputs, anchored at its corner, so results depend neither on strips nor on bands;
// a tile reads 6x6 pixels. With V = B^T d B of the pixels, U = G w G^T of the filter and M = sum over channels of
// V U (element by element), the outputs are A^T M A; the filter's gradient is G^T (sum over tiles of V (A g A^T)) G.
// Points 0, 3/4, -3/4, 3/2, -3/2, infinity: exact in binary, and they round more finely than the usual 0, 1, -1, 2, -2.
//
// Transformed rows of tiles are [frequency][tile][channel], frequencies `plane` values apart.
#pragma once

#include "dense_block_gemm.h"

namespace ivan_fast::cpu::IVAN_ISA {

using dense::kFrequencies;
using dense::kPoints;
using dense::kTile;

// A row of transformed tiles: planes of whole cache lines, an odd number of them, so that the frequencies of a tile do
// not all compete for the same places of the cache.
static inline int64_t plane_elements(int64_t tiles, int64_t channels) { return (tiles * channels + 15) / 16 * 16 + 16; }

// Values `pair` of B^T d, of which there are three pairs: points +-A, points +-B, and 0 with infinity.
template <typename T, int pair>
IVAN_INLINE void input_points(const Vec<T>* d, Vec<T>& first, Vec<T>& second) {
  constexpr T a = dense::kPointA, b = dense::kPointB, a2 = a * a, b2 = b * b;
  if constexpr (pair < 2) {
    constexpr T point = pair == 0 ? a : b, other2 = pair == 0 ? b2 : a2;
    const Vec<T> even = fma(broadcast(-other2), d[2], d[4]), odd = point * fma(broadcast(-other2), d[1], d[3]);
    first = even + odd;
    second = even - odd;
  } else {
    first = fma(broadcast(a2 * b2), d[0], fma(broadcast(-(a2 + b2)), d[2], d[4]));
    second = fma(broadcast(a2 * b2), d[1], fma(broadcast(-(a2 + b2)), d[3], d[5]));
  }
}
// Where each pair stands among the six values.
constexpr int kPairs[3][2] = {{1, 2}, {3, 4}, {0, 5}};

template <typename T>
IVAN_INLINE void store_points(Vec<T> v, int count, T* to) {
  if (count == kLanes<T>)
    store(to, v);
  else
    for (int i = 0; i < count; ++i) to[i] = v[i];
}

// One pair of rows of B^T d B of one tile and one vector of channels; the three pairs share nothing but their loads, so
// that each fits into registers.
template <typename T, int pair>
IVAN_INLINE void input_pair(const T* const* rows, int64_t offset, int channels, int count, T* out, int64_t plane) {
  Vec<T> first[kPoints], second[kPoints];
#pragma GCC unroll 6
  for (int x = 0; x < kPoints; ++x) {
    Vec<T> d[kPoints] = {};
#pragma GCC unroll 6
    for (int y = pair < 2 ? 1 : 0; y < (pair < 2 ? 5 : 6); ++y) d[y] = load(rows[y] + offset + x * channels);
    input_points<T, pair>(d, first[x], second[x]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const Vec<T>* d = i == 0 ? first : second;
    T* to = out + kPairs[pair][i] * kPoints * plane;
    asm("" : "+r"(to));  // or the compiler keeps 36 pointers and runs out of registers
    Vec<T> v[kPoints];
    input_points<T, 0>(d, v[1], v[2]);
    input_points<T, 1>(d, v[3], v[4]);
    input_points<T, 2>(d, v[0], v[5]);
#pragma GCC unroll 6
    for (int x = 0; x < kPoints; ++x, to += plane) store_points<T>(v[x], count, to);
  }
}

// A g, six values from four.
template <typename T>
IVAN_INLINE void gradient_points(const Vec<T>* g, Vec<T>* v) {
  constexpr T a = dense::kPointA, b = dense::kPointB;
  const Vec<T> even_a = fma(broadcast(a * a), g[2], g[0]), odd_a = a * fma(broadcast(a * a), g[3], g[1]);
  const Vec<T> even_b = fma(broadcast(b * b), g[2], g[0]), odd_b = b * fma(broadcast(b * b), g[3], g[1]);
  v[0] = g[0];
  v[1] = even_a + odd_a;
  v[2] = even_a - odd_a;
  v[3] = even_b + odd_b;
  v[4] = even_b - odd_b;
  v[5] = g[3];
}

// A^T m, four values from six.
template <typename T>
IVAN_INLINE void output_points(const Vec<T>* m, Vec<T>* y) {
  constexpr T a = dense::kPointA, b = dense::kPointB, a2 = a * a, b2 = b * b;
  const Vec<T> sum_a = m[1] + m[2], sum_b = m[3] + m[4], difference_a = m[1] - m[2], difference_b = m[3] - m[4];
  y[0] = m[0] + sum_a + sum_b;
  y[1] = fma(broadcast(a), difference_a, b * difference_b);
  y[2] = fma(broadcast(a2), sum_a, b2 * sum_b);
  y[3] = fma(broadcast(a2 * a), difference_a, fma(broadcast(b2 * b), difference_b, m[5]));
}

// V of a row of tiles. rows[6]: the pixels' rows, at the left neighbour of the first tile; `channels` values a pixel,
// of which the first `kept` go to `out`.
template <typename T>
static void transform_input(const T* const* rows, int64_t tiles, int channels, int kept, T* out, int64_t plane) {
  constexpr int V = kLanes<T>;
  for (int64_t tile = 0; tile < tiles; ++tile, out += kept)
    for (int c = 0; c < kept; c += V) {
      const int64_t offset = tile * kTile * channels + c;
      const int count = kept - c < V ? kept - c : V;
      input_pair<T, 0>(rows, offset, channels, count, out + c, plane);
      input_pair<T, 1>(rows, offset, channels, count, out + c, plane);
      input_pair<T, 2>(rows, offset, channels, count, out + c, plane);
    }
}

// A g A^T of a row of tiles. rows[4]: the gradient's rows at the first tile; whole vectors of channels.
template <typename T>
static void transform_gradient(const T* const* rows, int64_t tiles, int channels, T* out, int64_t plane) {
  constexpr int V = kLanes<T>;
  for (int64_t tile = 0; tile < tiles; ++tile, out += channels)
    for (int c = 0; c < channels; c += V) {
      Vec<T> down[kPoints][kTile];
#pragma GCC unroll 4
      for (int x = 0; x < kTile; ++x) {
        Vec<T> g[kTile], v[kPoints];
#pragma GCC unroll 4
        for (int y = 0; y < kTile; ++y) g[y] = load(rows[y] + (tile * kTile + x) * channels + c);
        gradient_points<T>(g, v);
#pragma GCC unroll 6
        for (int y = 0; y < kPoints; ++y) down[y][x] = v[y];
      }
#pragma GCC unroll 6
      for (int y = 0; y < kPoints; ++y) {
        Vec<T> v[kPoints];
        gradient_points<T>(down[y], v);
#pragma GCC unroll 6
        for (int x = 0; x < kPoints; ++x) store(out + (y * kPoints + x) * plane + c, v[x]);
      }
    }
}

// A^T M A of one tile and one vector of channels, y[row][column].
template <typename T>
IVAN_INLINE void tile_outputs(const T* m, int64_t plane, Vec<T> (*y)[kTile]) {
  Vec<T> down[kTile][kPoints];
#pragma GCC unroll 6
  for (int x = 0; x < kPoints; ++x) {
    Vec<T> column[kPoints], v[kTile];
#pragma GCC unroll 6
    for (int i = 0; i < kPoints; ++i) column[i] = load(m + (i * kPoints + x) * plane);
    output_points<T>(column, v);
#pragma GCC unroll 4
    for (int i = 0; i < kTile; ++i) down[i][x] = v[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < kTile; ++i) output_points<T>(down[i], y[i]);
}

// What becomes of a level's sums: rows at the first tile's first pixel, null outside the image.
template <typename T>
struct TileTarget {
  T* out[kTile];          // [pixel][channels]
  const T* mask[kTile];   // kMask: same layout as out
  const T* alive[kTile];  // [pixel], or null: an output that is not alive is exactly its bias
  const T* bias;          // [channels]
  Finish finish;
  T slope;
};

template <typename T, Finish finish>
static void finish_tiles(const T* m, int64_t plane, int64_t pixels, int channels, const TileTarget<T>& to) {
  constexpr int V = kLanes<T>;
  for (int64_t x = 0; x < pixels; x += kTile, m += channels) {
    const int columns = pixels - x < kTile ? int(pixels - x) : kTile;
    for (int c = 0; c < channels; c += V) {
      Vec<T> y[kTile][kTile];
      tile_outputs<T>(m + c, plane, y);
      const Vec<T> bias = load(to.bias + c);
#pragma GCC unroll 4
      for (int i = 0; i < kTile; ++i) {
        if (!to.out[i]) break;
        const int64_t offset = x * channels + c;
        const T* alive = to.alive[i];
#pragma GCC unroll 4
        for (int j = 0; j < kTile; ++j) {
          if (j >= columns) break;
          Vec<T> v = bias + y[i][j];
          if (finish != Finish::kMask && alive && alive[x + j] == T(0)) v = bias;
          if (finish == Finish::kLeaky) v = v > T(0) ? v : v * to.slope;
          if (finish == Finish::kMask) v = load(to.mask[i] + offset + j * channels) > T(0) ? v : v * to.slope;
          store(to.out[i] + offset + j * channels, v);
        }
      }
    }
  }
}

template <typename T>
static void transform_output(const T* m, int64_t plane, int64_t pixels, int channels, const TileTarget<T>& to) {
  if (to.finish == Finish::kLeaky) return finish_tiles<T, Finish::kLeaky>(m, plane, pixels, channels, to);
  if (to.finish == Finish::kMask) return finish_tiles<T, Finish::kMask>(m, plane, pixels, channels, to);
  finish_tiles<T, Finish::kNone>(m, plane, pixels, channels, to);
}

// flags[pixel] = 1 where any channel of the pixel differs from 0, else 0.
template <typename T>
static void mark_nonzero(const T* row, int64_t pixels, int channels, T* flags) {
  for (int64_t x = 0; x < pixels; ++x) flags[x] = any_nonzero(row + x * channels, channels / kLanes<T>) ? T(1) : T(0);
}

// flags[pixel] = 1 where any flag around it is 1; three rows that begin at its left neighbour, or null.
template <typename T>
static void spread_flags(const T* const* rows, int64_t pixels, T* flags) {
  for (int64_t x = 0; x < pixels; ++x) flags[x] = T(0);
  for (int i = 0; i < 3; ++i)
    if (const T* from = rows[i])
      for (int64_t x = 0; x < pixels; ++x) {
        const T left = from[x] > from[x + 1] ? from[x] : from[x + 1];
        const T widest = left > from[x + 2] ? left : from[x + 2];
        flags[x] = flags[x] > widest ? flags[x] : widest;
      }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
