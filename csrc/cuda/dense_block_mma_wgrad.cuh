// First stage of the parameters' gradients on tensor cores (dense_block_wgrad.cuh): gradient^T source over pixels.
#pragma once

#include "dense_block_wgrad.cuh"
#include "mma.cuh"

namespace ivan_fast::cuda {

// Nine warps, one a tap, or eight that share the pixels. A step's pixels are 16 (TF32: 8) columns of a row.
template <typename S, int kTaps>
struct MmaGradient {
  static constexpr int kBlock = kTaps == 9 ? 288 : 256;
  static constexpr int kRows = sizeof(S) == 2 ? 4 : 2, kCols = 32, kBorder = kTaps == 9 ? 1 : 0;
  static constexpr int kSourceRows = kRows + 2 * kBorder, kSourceCols = kCols + 2 * kBorder;
  static constexpr int kStepCols = 32 / int(sizeof(S)), kSteps = kRows * kCols / kStepCols;
  static constexpr int kSourceElements = kSourceRows * kSourceCols * kPair;
  static constexpr int kStageElements = kSourceElements + kRows * kCols * kPair;
  static constexpr int kSharedBytes = 2 * kStageElements * int(sizeof(S));
  static_assert(kTaps == 9 || (kSteps == 8 && 8 * kPair * kPair * 4 <= kSharedBytes));
};

// Where 16-byte chunk c of pixel p of a pair of slices lies: no two lanes of a load below meet in a bank. Of 16 bits 8
// neighbours are read by chunks, of 32 bits 4 by pairs of chunks.
template <typename S>
__device__ __forceinline__ int pair_chunk(int p, int c) {
  return sizeof(S) == 2 ? c ^ (p / 2 % 4) : c ^ (p % 4 * 2);
}

// Fragments of 16 channels from `channel` on (rows of A, or two tiles of columns of B) by a step of pixels from pixel p
// on, from [pixel][channel].
// A wants channels 0..7, 8..15 of the first half of the pixels, then of the second: `across` false. B wants both
// halves of the pixels of channels 0..7, then of 8..15: `across` true.
template <typename S>
__device__ __forceinline__ void load_channels(std::uint32_t (&r)[4], const S* pixels, int p, int channel, bool across) {
  constexpr int kChunk = kPackWidth<S>;
  const int lane = threadIdx.x % 32;
  if constexpr (sizeof(S) == 2) {
    const int i = lane / 8, half = across ? i % 2 : i / 2, eight = across ? i / 2 : i % 2;
    const int own = p + half * 8 + lane % 8;
    ldmatrix<4, true>(r, pixels + own * kPair + pair_chunk<S>(own, channel / kChunk + eight) * kChunk);
  } else {
    const std::uint32_t* words = reinterpret_cast<const std::uint32_t*>(pixels);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int half = across ? i % 2 : i / 2, eight = across ? i / 2 : i % 2;
      const int own = p + half * 4 + lane % 4, c = channel + eight * 8 + lane / 4;
      r[i] = words[own * kPair + pair_chunk<S>(own, c / kChunk) * kChunk + c % kChunk];
    }
  }
}

// load_pair on the way to shared memory.
template <int kRows, int kCols, int kBlock, typename S>
__device__ __forceinline__ void fetch_pair(S* to, const SlicePair<S>& pair, const Region& valid, int image, int row,
                                           int col) {
  constexpr int kPacks = kSlice / kPackWidth<S>;
  for (int i = threadIdx.x; i < kRows * kCols * 2 * kPacks; i += kBlock) {
    const int pixel = i / kPacks % (kRows * kCols), slice = i / kPacks / (kRows * kCols);
    const int part = i % kPacks, r = row + pixel / kCols, c = col + pixel % kCols;
    const bool held = slice < pair.count && valid.contains(r, c);
    const S* from = pair.from.data;
    if (held) from = pair.from.at(pair.image + image, pair.slice + slice, r, c) + part * kPackWidth<S>;
    copy_async(to + pixel * kPair + pair_chunk<S>(pixel, slice * kPacks + part) * kPackWidth<S>, from, !held);
  }
}

template <typename S, int kTaps>
__global__ void __launch_bounds__(MmaGradient<S, kTaps>::kBlock, 2) mma_gradient_kernel(GradientTask<float, S> task) {
  using G = MmaGradient<S, kTaps>;
  S* shared = dynamic_shared<S>();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const GradientItem<S> item = gradient_item<kTaps>(task, static_cast<int>(blockIdx.x));
  const Region readable = with_border(task.own, item.source.from);
  const int across = (task.own.cols() + G::kCols - 1) / G::kCols;
  const int down = (task.own.rows() + G::kRows - 1) / G::kRows;
  const std::int64_t tiles = std::int64_t(task.images) * across * down;
  const std::int64_t begin = tiles * blockIdx.y / gridDim.y, end = tiles * (blockIdx.y + 1) / gridDim.y;

  const auto fetch = [&](std::int64_t i) {
    S* stage = shared + (i - begin) % 2 * G::kStageElements;
    const int image = static_cast<int>(i / (across * down)), rest = static_cast<int>(i % (across * down));
    const int row = task.own.row0 + rest / across * G::kRows, col = task.own.col0 + rest % across * G::kCols;
    fetch_pair<G::kSourceRows, G::kSourceCols, G::kBlock>(stage, item.source, readable, image, row - G::kBorder,
                                                          col - G::kBorder);
    fetch_pair<G::kRows, G::kCols, G::kBlock>(stage + G::kSourceElements, item.gradient, task.own, image, row, col);
    cp_async_commit();
  };
  float acc[2][4][4] = {};
  // Pixels of step `step`, the source shifted by the tap.
  const auto add = [&](const S* stage, int step, int kh, int kw) {
    const int r = step * G::kStepCols / G::kCols, c = step * G::kStepCols % G::kCols;
    const S *source = stage, *gradient = stage + G::kSourceElements;
    std::uint32_t a[2][4], b[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      load_channels<S>(a[i], gradient, r * G::kCols + c, i * 16, false);
      load_channels<S>(b[i], source, (r + kh) * G::kSourceCols + c + kw, i * 16, true);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const std::uint32_t column[2] = {b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]};
        multiply<S>(acc[i][n], a[i], column);
      }
  };

  if (begin < end) fetch(begin);
  for (std::int64_t i = begin; i < end; ++i) {
    cp_async_wait<0>();
    __syncthreads();
    if (i + 1 < end) fetch(i + 1);
    const S* stage = shared + (i - begin) % 2 * G::kStageElements;
    if constexpr (kTaps == 9) {
#pragma unroll 1
      for (int step = 0; step < G::kSteps; ++step) add(stage, step, warp / 3, warp % 3);
    } else {
      add(stage, warp, 0, 0);
    }
  }

  float* partial = task.partial_of(item.unit);
  float* to = partial + warp * kPair * kPair;
  if constexpr (kTaps == 1) {
    __syncthreads();
    to = reinterpret_cast<float*>(shared) + warp * kPair * kPair;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<float2*>(to + (i * 16 + half * 8 + lane / 4) * kPair + n * 8 + lane % 4 * 2) =
            make_float2(acc[i][n][2 * half], acc[i][n][2 * half + 1]);
  if constexpr (kTaps == 1) {
    __syncthreads();
    for (int i = threadIdx.x; i < kPair * kPair; i += G::kBlock) {
      float sum = 0.0f;
#pragma unroll
      for (int w = 0; w < 8; ++w) sum += reinterpret_cast<const float*>(shared)[w * kPair * kPair + i];
      partial[i] = sum;
    }
  }
}

}  // namespace ivan_fast::cuda
