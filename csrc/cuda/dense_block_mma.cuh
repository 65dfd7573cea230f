// One level of the dense block on tensor cores: an implicit matrix product, pixels by outputs over groups of channels.
//
// A warp owns 16 columns of 4 rows. A fragment of a row of pixels serves the three kernel rows whose weights are then
// in registers, so pixels are read from shared memory 6 times for 4 x 3 products, and every output is summed in one
// order: slices of source 0, then for each hidden slice kernel columns, steps, kernel rows.
#pragma once

#include "mma.cuh"

namespace ivan_fast::cuda {

constexpr int kWarpRows = 4, kWarpCols = 16;  // pixels of a warp

// Loads the weights of a column of taps (or of the centre) for a step, and adds the products of the rows they meet.
//   load(a, r)    the fragment of pixels of row r; row 0 is the one above the warp's first, but at the centre that one
//   weights       registers of this step of the first matrix; `matrix_words` further those of the next kernel row
template <typename S, int kTiles, int kKernelRows, int kRows, typename Load>
__device__ __forceinline__ void multiply_rows(float (&acc)[kRows][kTiles][4], const Load& load,
                                              const std::uint32_t* weights, int matrix_words) {
  const int lane = threadIdx.x % 32;
  std::uint32_t b[kKernelRows][kTiles][2];
#pragma unroll
  for (int kh = 0; kh < kKernelRows; ++kh) {
    const std::uint32_t* from = weights + kh * matrix_words;
    if constexpr (kTiles == 1) {
      const uint2 v = *reinterpret_cast<const uint2*>(from + lane * 2);
      b[kh][0][0] = v.x;
      b[kh][0][1] = v.y;
    } else {
#pragma unroll
      for (int pair = 0; pair < kTiles / 2; ++pair) {
        const uint4 v = *reinterpret_cast<const uint4*>(from + (pair * 32 + lane) * 4);
        b[kh][2 * pair][0] = v.x;
        b[kh][2 * pair][1] = v.y;
        b[kh][2 * pair + 1][0] = v.z;
        b[kh][2 * pair + 1][1] = v.w;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows + kKernelRows - 1; ++r) {
    std::uint32_t a[4];
    load(a, r);
#pragma unroll
    for (int kh = 0; kh < kKernelRows; ++kh) {
      if (r - kh < 0 || r - kh >= kRows) continue;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) multiply<S>(acc[r - kh][n], a, b[kh][n]);
    }
  }
}

// All products of one slice. `row`: of the warp's first pixels in the patch, from its column 0; `col`: of the first of
// them there. `weights`: 9 matrices, or at the centre one.
template <typename S, int kTiles>
__device__ __forceinline__ void multiply_patch(float (&acc)[kWarpRows][kTiles][4], const unsigned char* row,
                                               int row_bytes, int col, const std::uint32_t* weights, bool centre) {
  constexpr int kPixelBytes = kSlice * int(sizeof(S)), kSteps = kPixelBytes / 32;
  constexpr int kStepWords = kTiles * 8 * 8, kMatrixWords = kSteps * kStepWords;
  const int lane = threadIdx.x % 32;
  const auto chunk = [&](int p, int step) {
    return row + p * kPixelBytes + ((step * 2 + lane / 16) ^ swizzle<S>(p)) * 16;
  };
  if (centre) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const unsigned char* own = chunk(col + lane % 16, step);
      multiply_rows<S, kTiles, 1, kWarpRows>(
          acc, [&](std::uint32_t (&a)[4], int r) { ldmatrix<4>(a, own + r * row_bytes); }, weights + step * kStepWords,
          0);
    }
    return;
  }
#pragma unroll 1
  for (int kw = 0; kw < 3; ++kw)
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const unsigned char* own = chunk(col + lane % 16 + kw - 1, step);
      multiply_rows<S, kTiles, 3, kWarpRows>(
          acc, [&](std::uint32_t (&a)[4], int r) { ldmatrix<4>(a, own + (r - 1) * row_bytes); },
          weights + kw * 3 * kMatrixWords + step * kStepWords, kMatrixWords);
    }
}

// Neighbouring operands of 16 bytes from their sums: bias, LeakyReLU or the mask's derivative, rounding.
template <typename S>
__device__ __forceinline__ Pack<S, kPackWidth<S>> finish(const float* sums, const float* bias, const S* mask,
                                                         float slope, DenseBlockOperand operand) {
  using P = Pack<S, kPackWidth<S>>;
  P result, sign{};
  if (mask != nullptr) sign = *reinterpret_cast<const P*>(mask);
#pragma unroll
  for (int i = 0; i < kPackWidth<S>; ++i) {
    const float v = bias == nullptr ? sums[i] : sums[i] + bias[i];
    result.v[i] = to_operand<S>(leaky(v, mask == nullptr ? v : from_operand(sign.v[i]), slope), operand);
  }
  return result;
}

// A warp's sums as [pixel][output] rows of `stride` floats, pixels of a row `warp_cols` apart.
template <int kTiles>
__device__ __forceinline__ void spread(float* to, int stride, int row_pixels,
                                       const float (&acc)[kWarpRows][kTiles][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r)
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<float2*>(to + (r * row_pixels + g + 8 * half) * stride + n * 8 + 2 * t) =
            make_float2(acc[r][n][2 * half], acc[r][n][2 * half + 1]);
}

// The layer-wise kernel's block: 2 x 2 warps.
template <typename S, int kTiles>
struct MmaLayer {
  static constexpr int kRows = 2 * kWarpRows, kCols = 2 * kWarpCols, kBlock = 128;
  static constexpr int kPatchRows = kRows + 2, kPatchCols = kCols + 2;
  static constexpr int kPixelBytes = kSlice * int(sizeof(S));  // chunks lie as swizzle says, by the patch's column
  static constexpr int kRowBytes = kPatchCols * kPixelBytes;
  static constexpr int kMatrixBytes = kTiles * 8 * kSlice * int(sizeof(S));
  static constexpr int kStageBytes = kPatchRows * kRowBytes + 9 * kMatrixBytes;
  static constexpr int kSumStride = kTiles * 8 + 4;
  static constexpr int kSharedBytes = 2 * kStageBytes;
  static_assert(kRows * kCols * kSumStride * 4 <= kSharedBytes);
};

// As layer_kernel computes: 8 x 32 pixels of one image and a tile of 8 kTiles outputs.
template <typename S, int kTiles>
__global__ void __launch_bounds__(128, 3) mma_layer_kernel(const __grid_constant__ LevelTask<float, S> task) {
  using L = MmaLayer<S, kTiles>;
  unsigned char* shared = dynamic_shared<unsigned char>();
  constexpr int kOutputs = kTiles * 8, kPacks = kSlice / kPackWidth<S>;
  const LevelBlock block(task);
  const int tile = block.tile;
  const int row = task.region.row0 + static_cast<int>(blockIdx.y) * L::kRows;
  const int col = task.region.col0 + static_cast<int>(blockIdx.x) * L::kCols;
  const int warp = threadIdx.x / 32, warp_row = warp / 2 * kWarpRows, warp_col = warp % 2 * kWarpCols;
  const int source_slices = task.source.count, all = source_slices + task.hidden_slices;
  const S* packed = task.weights + block.net * task.weights_stride +
                    std::int64_t(tile) * (source_slices + 9 * task.hidden_slices) * kSlice * kOutputs;

  // Slice s with its weights, on the way to its stage.
  const auto fetch = [&](int s) {
    unsigned char* stage = shared + s % 2 * L::kStageBytes;
    const bool centre = s < source_slices;
    const Slices<S>& from = centre ? task.source : task.hidden;
    const int slice = centre ? s : s - source_slices;
    const int image = centre && task.shared_source ? block.image : block.number;
    for (int i = threadIdx.x; i < L::kPatchRows * L::kPatchCols * kPacks; i += L::kBlock) {
      const int pixel = i / kPacks, part = i % kPacks;
      const int p = pixel % L::kPatchCols, r = row + pixel / L::kPatchCols - 1, c = col + p - 1;
      const bool held = from.region.contains(r, c);
      copy_async(stage + pixel * L::kPixelBytes + (part ^ swizzle<S>(p)) * 16,
                 held ? from.at(image, slice, r, c) + part * kPackWidth<S> : from.data, !held);
    }
    const int first = centre ? s : source_slices + 9 * (s - source_slices);
    const unsigned char* weights =
        reinterpret_cast<const unsigned char*>(packed + std::int64_t(first) * kSlice * kOutputs);
    const int bytes = (centre ? 1 : 9) * L::kMatrixBytes;
    for (int i = threadIdx.x * 16; i < bytes; i += L::kBlock * 16)
      copy_async(stage + L::kPatchRows * L::kRowBytes + i, weights + i, false);
    cp_async_commit();
  };

  float acc[kWarpRows][kTiles][4] = {};
  fetch(0);
  for (int s = 0; s < all; ++s) {
    cp_async_wait<0>();
    __syncthreads();  // stage s is there, and nobody reads the other any more
    if (s + 1 < all) fetch(s + 1);
    const unsigned char* stage = shared + s % 2 * L::kStageBytes;
    multiply_patch<S, kTiles>(acc, stage + (warp_row + 1) * L::kRowBytes, L::kRowBytes, warp_col + 1,
                              reinterpret_cast<const std::uint32_t*>(stage + L::kPatchRows * L::kRowBytes),
                              s < source_slices);
  }
  __syncthreads();
  float* sums = reinterpret_cast<float*>(shared);
  spread<kTiles>(sums + (warp_row * L::kCols + warp_col) * L::kSumStride, L::kSumStride, L::kCols, acc);
  __syncthreads();

  const float* bias = task.bias == nullptr ? nullptr : task.bias + block.net * task.bias_stride + tile * kOutputs;
  if (task.is_output) {
    for (int i = threadIdx.x; i < kOutputs * L::kRows * L::kCols; i += L::kBlock) {
      const int pixel = i % (L::kRows * L::kCols), o = i / (L::kRows * L::kCols);
      const int r = row + pixel / L::kCols, c = col + pixel % L::kCols, out = tile * kOutputs + o;
      if (out >= task.outputs || !task.region.contains(r, c)) continue;
      const float v = sums[pixel * L::kSumStride + o];
      *task.image[block.net].at(block.image, out, r, c) = bias == nullptr ? v : v + bias[o];
    }
    return;
  }
  if constexpr (kTiles == 4) {
    for (int i = threadIdx.x; i < 2 * L::kRows * L::kCols * kPacks; i += L::kBlock) {
      const int part = i % kPacks * kPackWidth<S>, pixel = i / kPacks % (L::kRows * L::kCols);
      const int half = i / kPacks / (L::kRows * L::kCols), slice = tile * 2 + half;
      const int r = row + pixel / L::kCols, c = col + pixel % L::kCols;
      if (slice >= task.out_slices || !task.region.contains(r, c)) continue;
      const int o = half * kSlice + part;
      const S* mask = task.masked ? task.mask.at(block.number, task.mask_slice + slice, r, c) + part : nullptr;
      *reinterpret_cast<Pack<S, kPackWidth<S>>*>(task.hidden.at(block.number, task.out_slice + slice, r, c) + part) =
          finish<S>(sums + pixel * L::kSumStride + o, bias == nullptr ? nullptr : bias + o, mask, task.slope,
                    task.operand);
    }
  }
}

}  // namespace ivan_fast::cuda
