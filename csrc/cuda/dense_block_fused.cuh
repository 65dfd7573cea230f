// All levels of the dense block's forward in one kernel: hidden rows live in rings in shared memory only.
//
// Sums are taken in the order of mma_layer_kernel, from the same operands, and finished alike: the same bits. Two warps
// share 16 columns, each with half of the outputs. Weights come slice by slice through two stages, one barrier each.
// (Geometry, and the layout of shared memory: dense_block_fused_geometry.h.)
#pragma once

#include <cstring>

#include "dense_block_fused_geometry.h"
#include "dense_block_mma.cuh"

namespace ivan_fast::cuda {

template <typename S>
struct FusedTask {
  DenseNet net;
  FusedGeometry geometry;
  const float* x;  // [N, in_channels, H, W]
  std::int64_t x_stride;
  float* y;          // [N, out_channels, H, W]
  const S* weights;  // packed
  const float* bias;
  std::int64_t offset[kMaxLevels], bias_offset[kMaxLevels];  // of level m at m - 1
  float slope;
  DenseBlockOperand operand;
  int height, width;
};

// Which 16-byte chunk of pixel p holds chunk 0; the others follow by exclusive or. 8 neighbours meet in no bank.
template <typename S>
__device__ __forceinline__ int swizzle(int p) {
  return sizeof(S) == 2 ? p / 4 % 2 : p / 2 % 4;
}

// One block's view of its strip. Rows are counted from `origin`, before any that is read; column 0 is the first
// computed one, and pixel p of a ring is column p - 1.
template <typename S, int kRows>
struct FusedBlock {
  static constexpr int kPixelBytes = kSlice * int(sizeof(S)), kSteps = kPixelBytes / 32, kWide = 4 / int(sizeof(S));
  const FusedTask<S>& task;
  unsigned char* shared;
  int image, origin, col0, row0, row1;  // image rows [row0, row1) are stored
  int warp_col, half;                   // of this warp
  int lane;

  __device__ __forceinline__ FusedBlock(const FusedTask<S>& t, unsigned char* memory) : task(t), shared(memory) {
    const FusedGeometry& g = t.geometry;
    image = static_cast<int>(blockIdx.z);
    row0 = static_cast<int>(blockIdx.y) * g.block_rows;
    row1 = min(row0 + g.block_rows, t.height);
    col0 = static_cast<int>(blockIdx.x) * g.strip - t.net.hidden;
    origin = row0 - 2 * t.net.hidden - 2;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    lane = static_cast<int>(threadIdx.x) % 32;
    warp_col = warp % (g.cols / 16) * 16;
    half = warp / (g.cols / 16);
  }

  __device__ __forceinline__ unsigned char* stage(int i) const {
    return shared + ring_offset(task.net, task.geometry.cols, kRows, int(sizeof(S)), task.net.hidden + 1) +
           i * stage_bytes(int(sizeof(S)));
  }
  __device__ __forceinline__ S* source_ring() const {
    return reinterpret_cast<S*>(shared + source_offset(task.net, task.geometry.cols, kRows, int(sizeof(S))));
  }
  __device__ __forceinline__ int source_rows() const { return source_ring_rows(task.net.hidden, kRows); }

  // Rows [from, to) of x, rounded, zeros outside the image.
  __device__ __forceinline__ void load_source(int from, int to) const {
    const int pixels = task.geometry.cols + 2, rows = to - from;
    for (int i = threadIdx.x; i < task.net.in_channels * rows * pixels; i += blockDim.x) {
      const int p = i % pixels, row = from + i / pixels % rows, channel = i / pixels / rows, col = col0 + p - 1;
      float v = 0.0f;
      if (row >= 0 && row < task.height && col >= 0 && col < task.width)
        v = task.x[image * task.x_stride + (std::int64_t(channel) * task.height + row) * task.width + col];
      source_ring()[(channel * source_rows() + (row - origin) % source_rows()) * pixels + p] =
          to_operand<S>(v, task.operand);
    }
  }

  // The weights of slice s of level m, on the way to their stage.
  __device__ __forceinline__ void fetch(int m, int s, unsigned char* to) const {
    const int first_slices = task.net.source_slices(), tiles = task.net.output_tiles(m);
    const int matrix = task.net.tile_outputs(m) * kSlice, matrix_bytes = matrix * int(sizeof(S));
    const bool centre = s < first_slices;
    const int bytes = (centre ? 1 : 9) * matrix_bytes;
    const std::int64_t first = centre ? s : first_slices + 9 * (s - first_slices);
    for (int i = threadIdx.x * 16; i < tiles * bytes; i += blockDim.x * 16) {
      const int tile = i / bytes, at = i % bytes;
      const S* from = task.weights + task.offset[m - 1] + (tile * task.net.groups(m) + first) * matrix;
      copy_async(to + tile * 9 * matrix_bytes + at, reinterpret_cast<const unsigned char*>(from) + at, false);
    }
    cp_async_commit();
  }

  // Products of slice s of source 0 for rows from `row`: fragments are gathered from the rows of x.
  template <int kTiles>
  __device__ __forceinline__ void multiply_source(float (&acc)[kRows][kTiles][4], int s, int row,
                                                  const std::uint32_t* weights, int step_words) const {
    const int pixels = task.geometry.cols + 2, first = row - 1 - origin;
    const S* x = source_ring();
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
      multiply_rows<S, kTiles, 1, kRows>(
          acc,
          [&](std::uint32_t (&a)[4], int r) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              Pack<S, kWide> values;
#pragma unroll
              for (int part = 0; part < kWide; ++part) {
                const int unfolded = s * kSlice + ((step * 2 + i / 2) * 4 + lane % 4) * kWide + part;
                const int channel = unfolded / 9, tap = unfolded % 9;
                values.v[part] = to_operand<S>(0.0f, task.operand);
                if (channel < task.net.in_channels)
                  values.v[part] = x[(channel * source_rows() + (first + r + tap / 3) % source_rows()) * pixels +
                                     warp_col + lane / 4 + i % 2 * 8 + tap % 3];
              }
              memcpy(&a[i], &values, sizeof(values));
            }
          },
          weights + step * step_words, 0);
  }

  // Products of a slice of hidden level j for rows from `row`.
  template <int kTiles>
  __device__ __forceinline__ void multiply_hidden(float (&acc)[kRows][kTiles][4], int j, int slice, int row,
                                                  const std::uint32_t* weights, int step_words) const {
    const int rows = ring_rows(task.net.hidden, kRows, j);
    const int row_bytes = ring_row_bytes(task.geometry.cols, int(sizeof(S)));
    const unsigned char* ring =
        shared + ring_offset(task.net, task.geometry.cols, kRows, int(sizeof(S)), j) + slice * rows * row_bytes;
    int at[kRows + 2];  // bytes of the rows above, of, and below
    at[0] = (row - 1 - origin) % rows * row_bytes;
#pragma unroll
    for (int r = 1; r < kRows + 2; ++r) at[r] = at[r - 1] + row_bytes == rows * row_bytes ? 0 : at[r - 1] + row_bytes;
#pragma unroll 1
    for (int kw = 0; kw < 3; ++kw) {
      const int p = warp_col + lane % 16 + kw;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const unsigned char* own = ring + p * kPixelBytes + ((step * 2 + lane / 16) ^ swizzle<S>(p)) * 16;
        multiply_rows<S, kTiles, 3, kRows>(
            acc, [&](std::uint32_t (&a)[4], int r) { ldmatrix<4>(a, own + at[r]); },
            weights + kw * 3 * kSteps * step_words + step * step_words, kSteps * step_words);
      }
    }
  }

  // Hidden level m's rows from `row` into its ring; zeros outside the image.
  __device__ __forceinline__ void store_hidden(const float (&acc)[kRows][2][4], int m, int row) const {
    const int rows = ring_rows(task.net.hidden, kRows, m);
    const int row_bytes = ring_row_bytes(task.geometry.cols, int(sizeof(S)));
    unsigned char* ring =
        shared + ring_offset(task.net, task.geometry.cols, kRows, int(sizeof(S)), m) + half * rows * row_bytes;
    const float* bias = task.bias + task.bias_offset[m - 1] + half * kSlice + lane % 4 * 2;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      unsigned char* to = ring + (row + r - origin) % rows * row_bytes;
      const bool inside = row + r >= 0 && row + r < task.height;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int lower = 0; lower < 2; ++lower) {
          const int col = warp_col + lane / 4 + lower * 8, p = col + 1;
          const bool held = inside && col0 + col >= 0 && col0 + col < task.width;
          Pack<S, 2> values;
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const float v = acc[r][n][lower * 2 + i] + bias[n * 8 + i];
            values.v[i] = to_operand<S>(held ? leaky(v, v, task.slope) : 0.0f, task.operand);
          }
          const int byte = (n * 8 + lane % 4 * 2) * int(sizeof(S));
          *reinterpret_cast<Pack<S, 2>*>(to + p * kPixelBytes + (byte / 16 ^ swizzle<S>(p)) * 16 + byte % 16) = values;
        }
    }
  }

  // The output level's rows from `row` into y, where they belong to the block.
  __device__ __forceinline__ void store_output(const float (&acc)[kRows][1][4], int row) const {
    const int first = half * 8 + lane % 4 * 2, level = task.net.hidden;
    const float* bias = task.bias + task.bias_offset[level] + first;
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int col = warp_col + lane / 4 + i / 2 * 8, out = first + i % 2;
        const bool own = col >= level && col < level + task.geometry.strip && col0 + col < task.width;
        if (!own || row + r < row0 || row + r >= row1 || out >= task.net.out_channels) continue;
        task.y[((std::int64_t(image) * task.net.out_channels + out) * task.height + row + r) * task.width + col0 +
               col] = acc[r][0][i] + bias[i % 2];
      }
  }
};

template <typename S, int kRows>
__global__ void __launch_bounds__(kMaxFusedThreads) fused_kernel(const __grid_constant__ FusedTask<S> task) {
  unsigned char* shared = dynamic_shared<unsigned char>();
  const FusedBlock<S, kRows> block(task, shared);
  const int hidden = task.net.hidden, first_slices = task.net.source_slices(), slices = task.net.level_slices();
  for (int i = threadIdx.x * 16; i < task.geometry.shared_bytes; i += blockDim.x * 16)
    *reinterpret_cast<uint4*>(shared + i) = make_uint4(0, 0, 0, 0);
  __syncthreads();

  int stage = 0;
  block.fetch(1, 0, block.stage(0));
  const int begin = block.row0 - hidden, end = block.row1 + hidden;  // rows of level 1
  for (int row = begin; row < end; row += kRows) {
    block.load_source(row == begin ? row - 1 : row + 1, row + kRows + 1);
    for (int m = 1; m <= hidden + 1; ++m) {
      const bool is_output = m > hidden;
      const bool active = block.half < (is_output ? task.net.output_tiles(m) : slices);
      const int count = first_slices + (m - 1) * slices, own = row - (m - 1);
      const int tile_words = 9 * 8 * kSlice * int(sizeof(S)) / 4;  // of the output level's tiles
      float acc[kRows][2][4] = {}, out[kRows][1][4] = {};
      for (int s = 0; s < count; ++s) {
        cp_async_wait<0>();
        __syncthreads();  // the stage is there, so is what other warps have put into rings, and the other stage is free
        const bool last = s + 1 == count;
        if (!last || m <= hidden || row + kRows < end)
          block.fetch(last ? (is_output ? 1 : m + 1) : m, last ? 0 : s + 1, block.stage(stage ^ 1));
        const auto* weights = reinterpret_cast<const std::uint32_t*>(block.stage(stage));
        stage ^= 1;
        if (!active) continue;
        const int j = s < first_slices ? 0 : (s - first_slices) / slices + 1, slice = (s - first_slices) % slices;
        if (is_output) {
          weights += block.half * tile_words;
          if (j == 0) {
            block.multiply_source(out, s, own, weights, 64);
          } else {
            block.multiply_hidden(out, j, slice, own, weights, 64);
          }
        } else {
          weights += block.half * 128;
          if (j == 0) {
            block.multiply_source(acc, s, own, weights, 256);
          } else {
            block.multiply_hidden(acc, j, slice, own, weights, 256);
          }
        }
      }
      if (!active) continue;
      if (is_output) {
        block.store_output(out, own);
      } else {
        block.store_hidden(acc, m, own);
      }
    }
  }
}

}  // namespace ivan_fast::cuda
