// The products of Winograd's form: for each of 36 frequencies a matrix product over the tiles of a row.
#pragma once

#include "dense_block_dot.h"
#include "dense_block_wgrad.h"
#include "dense_block_winograd.h"

namespace ivan_fast::cpu::IVAN_ISA {

// A row of transformed tiles of each source of a level, at the level's first tile.
template <typename T>
struct TileRows {
  const T* at[dense::kMaxSources];
  int64_t plane[dense::kMaxSources];
};

// m[f][tile][width] = the sums of level k; weights [f][block of outputs][channel of all sources][the block's outputs].
template <typename T>
static void level_products(const dense::Net<T>& net, int k, const TileRows<T>& rows, int64_t tiles, T* m,
                           int64_t plane) {
  constexpr int V = kLanes<T>;
  const int width = dense::level_width(net, k), vectors = width / V;
  const size_t channels = dense::channels_before(net, k);
  const T zeros[dense::kBlockVectors * V] = {};
  for (int f = 0; f < kFrequencies; ++f)
    for (int v = 0; v < vectors; v += dense::kBlockVectors) {
      const int nb = vectors - v < dense::kBlockVectors ? vectors - v : dense::kBlockVectors;
      const T* weights = net.weights[k] + (size_t(f) * width + size_t(v) * V) * channels;
      T* out = m + f * plane + v * V;
      Chunk<T> chunk = {};
      chunk.start = zeros;
      for (int s = 0; s < k; ++s) {
        const int length = dense::source_channels(net, s);
        const size_t segment = size_t(length) * nb * V;
        if (!chunk.fits(segment)) {
          row_of_blocks(nb, chunk, tiles, out, width);
          chunk.clear();
        }
        chunk.add(rows.at[s] + f * rows.plane[s], weights, length, length, segment);
        weights += segment;
      }
      row_of_blocks(nb, chunk, tiles, out, width);
    }
}

// total[f][channel of all sources][width] += sum over tiles V[tile][channel] g[f][tile][width].
template <typename T>
static void level_tile_gradient(const dense::Net<T>& net, int k, const TileRows<T>& rows, const T* g, int64_t g_plane,
                                int64_t tiles, T* total) {
  const int width = dense::level_width(net, k);
  for (int f = 0; f < kFrequencies; ++f)
    for (int s = 0; s < k; ++s) {
      const int channels = dense::source_channels(net, s);
      for (int64_t x = 0; x < tiles; x += kGradientPixels) {
        const int64_t count = tiles - x < kGradientPixels ? tiles - x : kGradientPixels;
        gradient_product(rows.at[s] + f * rows.plane[s] + x * channels, channels, channels, g + f * g_plane + x * width,
                         width, count, total);
      }
      total += size_t(channels) * width;
    }
}

// The output level of few channels: products and lanes of one output, m[f][tile][lane], whose lanes are yet to be
// added. weights: [f][channel of all sources].
template <typename T, int P>
IVAN_INLINE void dot_tiles(const dense::Net<T>& net, const TileRows<T>& rows, const T* weights, int f, int64_t tile,
                           T* out) {
  constexpr int V = kLanes<T>;
  Vec<T> sum[P] = {};
  for (int s = 0; s <= net.hidden; ++s) {
    const int channels = dense::source_channels(net, s), rest = channels % V;
    const T* a = rows.at[s] + f * rows.plane[s] + tile * channels;
    for (int c = 0; c + V <= channels; c += V) {
      const Vec<T> w = load(weights + c);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) sum[p] = fma(load(a + p * channels + c), w, sum[p]);
    }
    if (rest) {
      const Vec<T> w = load_first(weights + channels - rest, rest);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) sum[p] = fma(load_first(a + p * channels + channels - rest, rest), w, sum[p]);
    }
    weights += channels;
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) store(out + p * V, sum[p]);
}

template <typename T>
static void dot_products(const dense::Net<T>& net, int output, const TileRows<T>& rows, int64_t tiles, T* m,
                         int64_t plane) {
  constexpr int V = kLanes<T>, P = 8;
  const size_t channels = dense::channels_before(net, net.hidden + 1);
  const T* weights = net.weights[net.hidden + 1] + size_t(output) * kFrequencies * channels;
  for (int f = 0; f < kFrequencies; ++f, weights += channels) {
    T* out = m + f * plane;
    int64_t tile = 0;
    for (; tile + P <= tiles; tile += P) dot_tiles<T, P>(net, rows, weights, f, tile, out + tile * V);
    for (; tile < tiles; ++tile) dot_tiles<T, 1>(net, rows, weights, f, tile, out + tile * V);
  }
}

// Outputs of one channel from those products: to[i * stride + x], `count` pixels in each of `rows` rows.
template <typename T>
static void dot_outputs(const T* m, int64_t plane, int64_t pixels, int rows, const T* const* alive, T bias, T* to,
                        int64_t stride) {
  for (int64_t x = 0; x < pixels; x += kTile, m += kLanes<T>) {
    Vec<T> y[kTile][kTile];
    tile_outputs<T>(m, plane, y);
    const int columns = pixels - x < kTile ? int(pixels - x) : kTile;
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < columns; ++j) {
        const T sum = sum_lanes(y[i][j]) + bias;
        to[i * stride + x + j] = alive[i] && alive[i][x + j] == T(0) ? bias : sum;
      }
  }
}

// total[output][f][channel of all sources] += sum over tiles V[tile][channel] g[f][tile][output].
template <typename T>
static void dot_tile_gradient(const dense::Net<T>& net, const TileRows<T>& rows, const T* g, int64_t g_plane,
                              int g_stride, int64_t tiles, T* total) {
  for (int o = 0; o < net.out_channels; ++o)
    for (int f = 0; f < kFrequencies; ++f)
      for (int s = 0; s <= net.hidden; ++s) {
        const int channels = dense::source_channels(net, s);
        for (int64_t x = 0; x < tiles; x += kGradientPixels) {
          const int64_t count = tiles - x < kGradientPixels ? tiles - x : kGradientPixels;
          dot_gradient(rows.at[s] + f * rows.plane[s] + x * channels, channels, channels,
                       g + f * g_plane + x * g_stride + o, g_stride, count, total);
        }
        total += channels;
      }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
