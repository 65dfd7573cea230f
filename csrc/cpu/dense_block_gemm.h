// The multiply-add kernels of the dense block, over rows stored as [pixel][channel].
//
// A 3x3 convolution of such rows is, for each of three input rows, a matrix product whose left operand is the row
// itself read at pixel stride: the 3 * C values under a kernel row are contiguous. So one micro-kernel does all:
// kBlockPixels x 2 vectors of sums in registers, weights from L1 (a chunk of at most kChunkBytes stays there for a
// whole row), inputs broadcast. Each output is summed in the order source, kh, kw, channel, whatever the blocking.
#pragma once

#include "dense_block_plan.h"
#include "dense_block_vector.h"

namespace ivan_fast::cpu::IVAN_ISA {

constexpr int kChunkBytes = 20 * 1024;  // of 32 KB L1

constexpr int kMaxSegments = 3 * dense::kMaxSources;

enum class Finish { kNone, kLeaky, kMask };

template <typename T>
struct Chunk {
  struct Segment {
    const T* input;    // at the first value that the first output pixel reads
    const T* weights;  // [length][block]
    int length;        // values that each output reads
    int stride;        // between those of neighbouring outputs
  };
  Segment segment[kMaxSegments];
  int segments;
  size_t elements;  // of weights in all segments
  const T* start;   // bias of the block, or null to continue from the sums in `out`
  Finish finish;    // applied to the final sums
  const T* mask;    // kMask: the hidden row whose sign decides; same layout as out
  T slope;

  // Whether weights of `more` elements still share L1 with what is here.
  bool fits(size_t more) const { return segments == 0 || (elements + more) * sizeof(T) <= size_t(kChunkBytes); }
  void add(const T* input, const T* weights, int length, int stride, size_t size) {
    segment[segments++] = {input, weights, length, stride};
    elements += size;
  }
  // Later segments continue from the sums so far.
  void clear() {
    segments = 0;
    elements = 0;
    start = nullptr;
  }
};

// out[p][0 .. NB vectors) for P pixels from pixel x on.
template <typename T, int P, int NB>
IVAN_INLINE void block(const Chunk<T>& c, int64_t x, T* out, int out_stride) {
  constexpr int V = kLanes<T>;
  Vec<T> sum[P][NB];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 2
    for (int n = 0; n < NB; ++n) sum[p][n] = load((c.start ? c.start : out + (x + p) * out_stride) + n * V);
  for (int s = 0; s < c.segments; ++s) {
    const int64_t stride = c.segment[s].stride;
    const int length = c.segment[s].length;
    const T* a = c.segment[s].input + x * stride;
    const T* w = c.segment[s].weights;
    for (int i = 0; i < length; ++i, w += NB * V) {
      Vec<T> weight[NB];
#pragma GCC unroll 2
      for (int n = 0; n < NB; ++n) weight[n] = load(w + n * V);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const Vec<T> value = broadcast(a[p * stride + i]);
#pragma GCC unroll 2
        for (int n = 0; n < NB; ++n) sum[p][n] = fma(value, weight[n], sum[p][n]);
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 2
    for (int n = 0; n < NB; ++n) {
      Vec<T> v = sum[p][n];
      if (c.finish == Finish::kLeaky) v = v > T(0) ? v : v * c.slope;
      if (c.finish == Finish::kMask) v = load(c.mask + (x + p) * out_stride + n * V) > T(0) ? v : v * c.slope;
      store(out + (x + p) * out_stride + n * V, v);
    }
}

template <typename T, int P, int NB>
__attribute__((noinline)) static void block_function(const Chunk<T>& c, int64_t x, T* out, int out_stride) {
  block<T, P, NB>(c, x, out, out_stride);
}

template <typename T, int NB>
using BlockFunction = void (*)(const Chunk<T>&, int64_t, T*, int);

// A row of `pixels`, cut into blocks of nearly equal size so that no block is left almost empty.
template <typename T, int NB>
static void row_of_blocks(const Chunk<T>& c, int64_t pixels, T* out, int out_stride) {
  static constexpr BlockFunction<T, NB> table[] = {
      block_function<T, 1, NB>,  block_function<T, 2, NB>,  block_function<T, 3, NB>,  block_function<T, 4, NB>,
      block_function<T, 5, NB>,  block_function<T, 6, NB>,
#if defined(IVAN_DENSE_BLOCK_14)
      block_function<T, 7, NB>,  block_function<T, 8, NB>,  block_function<T, 9, NB>,  block_function<T, 10, NB>,
      block_function<T, 11, NB>, block_function<T, 12, NB>, block_function<T, 13, NB>, block_function<T, 14, NB>,
#endif
  };
  static_assert(sizeof(table) / sizeof(table[0]) == kBlockPixels);
  const int64_t blocks = (pixels + kBlockPixels - 1) / kBlockPixels;
  const int64_t small = blocks ? pixels / blocks : 0, larger = blocks ? pixels % blocks : 0;
  int64_t x = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t size = small + (b < larger);
    table[size - 1](c, x, out, out_stride);
    x += size;
  }
}

template <typename T>
static void row_of_blocks(int vectors, const Chunk<T>& c, int64_t pixels, T* out, int out_stride) {
  if (vectors == 2)
    row_of_blocks<T, 2>(c, pixels, out, out_stride);
  else
    row_of_blocks<T, 1>(c, pixels, out, out_stride);
}

// One row of level `level`, out[pixel][width] over `pixels` pixels. rows[s][kh] points at the left neighbour of the
// first pixel in source s, or is null outside the image.
template <typename T>
static void level_row(const dense::Net<T>& net, int level, const T* const (*rows)[3], int64_t pixels, Finish finish,
                      const T* mask, T slope, T* out) {
  constexpr int V = kLanes<T>;
  const int width = dense::level_width(net, level), vectors = width / V;
  for (int v = 0; v < vectors; v += dense::kBlockVectors) {
    const int nb = vectors - v < dense::kBlockVectors ? vectors - v : dense::kBlockVectors;
    Chunk<T> chunk = {};
    chunk.slope = slope;
    chunk.mask = mask ? mask + v * V : nullptr;
    chunk.start = net.bias[level] + v * V;
    for (int s = 0; s < level; ++s) {
      const int channels = dense::source_channels(net, s), length = 3 * channels;
      const size_t segment = size_t(length) * nb * V;
      const T* weights = net.weights[level] + dense::source_offset(net, s, width) + size_t(3) * length * v * V;
      for (int kh = 0; kh < 3; ++kh) {
        if (!rows[s][kh]) continue;
        if (!chunk.fits(segment)) {
          row_of_blocks(nb, chunk, pixels, out + v * V, width);
          chunk.clear();
        }
        chunk.add(rows[s][kh], weights + kh * segment, length, channels, segment);
      }
    }
    chunk.finish = finish;
    row_of_blocks(nb, chunk, pixels, out + v * V, width);
  }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
