// One level of the dense block in exact arithmetic: every product in one fused multiply-add of the tensor's own type.
#pragma once

#include "dense_block_slices.cuh"

namespace ivan_fast::cuda {

constexpr int kLayerRows = 8, kLayerCols = 16;  // pixels of a block
constexpr int kPatchRows = kLayerRows + 2, kPatchCols = kLayerCols + 2;
constexpr int kPatchPixel = kSlice + 4;  // elements: neighbours start in different banks
constexpr int kLayerPixels = 4;          // of a thread: columns 4 apart of one row

// A slice of the pixels around a block, zeros where the buffers hold none.
template <typename S>
__device__ inline void load_patch(S* patch, const Slices<S>& from, int image, int slice, int row, int col) {
  constexpr int kWide = kPackWidth<S>, kPacks = kSlice / kWide;
  for (int i = threadIdx.x; i < kPatchRows * kPatchCols * kPacks; i += kThreads) {
    const int pixel = i / kPacks, part = i % kPacks * kWide;
    const int r = row + pixel / kPatchCols - 1, c = col + pixel % kPatchCols - 1;
    Pack<S, kWide> values{};
    if (from.region.contains(r, c))
      values = *reinterpret_cast<const Pack<S, kWide>*>(from.at(image, slice, r, c) + part);
    *reinterpret_cast<Pack<S, kWide>*>(patch + pixel * kPatchPixel + part) = values;
  }
}

// acc[j][o] += sum over 16 channels, ascending, of patch[pixel j][channel] * weights[channel][o].
template <typename T, int kOut>
__device__ inline void multiply_slice(const T* patch, const T* weights, T (&acc)[kLayerPixels][kOut]) {
  constexpr int kPack = kPackWidth<T>;
  using Wide = Pack<T, kPack>;
#pragma unroll 1
  for (int k = 0; k < kSlice; k += kPack) {
    Wide a[kLayerPixels];
#pragma unroll
    for (int j = 0; j < kLayerPixels; ++j) a[j] = *reinterpret_cast<const Wide*>(patch + j * 4 * kPatchPixel + k);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      T b[kOut];
      if constexpr (kOut == 4) {
#pragma unroll
        for (int o = 0; o < 4; o += kPack) {
          const Wide w = *reinterpret_cast<const Wide*>(weights + (k + i) * 8 * kOut + o);
#pragma unroll
          for (int q = 0; q < kPack; ++q) b[o + q] = w.v[q];
        }
      } else {
        b[0] = weights[(k + i) * 8];
      }
#pragma unroll
      for (int j = 0; j < kLayerPixels; ++j)
#pragma unroll
        for (int o = 0; o < kOut; ++o) acc[j][o] = multiply_add(a[j].v[i], b[o], acc[j][o]);
    }
  }
}

// h[o] = finish(bias[o] + sum over groups and channels of weights * inputs). A block computes 8 x 16 pixels of one
// image and net, and one tile of 8 * kOut outputs; a warp owns a row of pixels, a thread 4 of them and kOut outputs.
template <typename T, int kOut>
__global__ void __launch_bounds__(kThreads, 2) layer_kernel(const __grid_constant__ LevelTask<T, T> task) {
  constexpr int kOutputs = 8 * kOut, kMatrix = kSlice * kOutputs;
  using Wide = Pack<T, kPackWidth<T>>;
  __shared__ __align__(16) T patch[kPatchRows * kPatchCols * kPatchPixel];
  __shared__ __align__(16) T weights[3 * kMatrix];
  const LevelBlock block(task);
  const int row = task.region.row0 + static_cast<int>(blockIdx.y) * kLayerRows;
  const int col = task.region.col0 + static_cast<int>(blockIdx.x) * kLayerCols;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int out = lane % 8 * kOut, own_col = lane / 8;
  const int source_slices = task.source.count, all = source_slices + task.hidden_slices;
  const T* next = task.weights + block.net * task.weights_stride +
                  std::int64_t(block.tile) * (source_slices + 9 * task.hidden_slices) * kMatrix;

  T acc[kLayerPixels][kOut] = {};
  for (int s = 0; s < all; ++s) {
    const bool centre = s < source_slices;
    load_patch(patch, centre ? task.source : task.hidden, centre && task.shared_source ? block.image : block.number,
               centre ? s : s - source_slices, row, col);
    for (int kw = 0; kw < (centre ? 1 : 3); ++kw) {
      const int matrices = centre ? 1 : 3;
      for (int i = threadIdx.x * kPackWidth<T>; i < matrices * kMatrix; i += kThreads * kPackWidth<T>)
        *reinterpret_cast<Wide*>(weights + i) = *reinterpret_cast<const Wide*>(next + i);
      next += matrices * kMatrix;
      __syncthreads();
      for (int kh = 0; kh < matrices; ++kh) {
        const int r = warp + (centre ? 1 : kh), c = own_col + (centre ? 1 : kw);
        multiply_slice(patch + (r * kPatchCols + c) * kPatchPixel, weights + kh * kMatrix + out, acc);
      }
      __syncthreads();
    }
  }

  const int r = row + warp, first = block.tile * kOutputs + out;
  T bias[kOut];
#pragma unroll
  for (int o = 0; o < kOut; ++o)
    bias[o] = task.bias == nullptr ? T(0) : task.bias[block.net * task.bias_stride + first + o];
#pragma unroll
  for (int j = 0; j < kLayerPixels; ++j) {
    const int c = col + own_col + 4 * j;
    if (r >= task.region.row1 || c >= task.region.col1) continue;
    if (task.is_output) {
#pragma unroll
      for (int o = 0; o < kOut; ++o)
        if (first + o < task.outputs) *task.image[block.net].at(block.image, first + o, r, c) = acc[j][o] + bias[o];
      continue;
    }
    if constexpr (kOut == 4) {
      const int slice = first / kSlice, part = first % kSlice;
      if (slice >= task.out_slices) continue;
      Pack<T, 4> sign, result;
      if (task.masked)
        sign = *reinterpret_cast<const Pack<T, 4>*>(task.mask.at(block.number, task.mask_slice + slice, r, c) + part);
#pragma unroll
      for (int o = 0; o < 4; ++o) {
        const T v = acc[j][o] + bias[o];
        result.v[o] = to_operand<T>(leaky(v, task.masked ? sign.v[o] : v, task.slope), task.operand);
      }
      *reinterpret_cast<Pack<T, 4>*>(task.hidden.at(block.number, task.out_slice + slice, r, c) + part) = result;
    }
  }
}

}  // namespace ivan_fast::cuda
