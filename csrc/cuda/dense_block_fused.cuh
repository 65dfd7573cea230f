// All levels of a net in one kernel, the dense block's or the mirrored one: hidden rows live in rings in shared memory,
// from which a backward keeps a copy.
//
// Sums are taken in the order of mma_layer_kernel, from the same operands, and finished alike: the same bits. Two warps
// share 16 columns, each with half of the outputs. Weights come slice by slice through two stages, one barrier each.
// (Geometry, and the layout of shared memory: dense_block_fused_geometry.h.)
#pragma once

#include <cstring>

#include "dense_block_fused_task.cuh"
#include "dense_block_mma.cuh"

namespace ivan_fast::cuda {

// One block's view of its strip. Rows are counted from `origin`, before any that is read; column 0 is the first
// computed one, and pixel p of a ring is column p - 1.
template <typename S, int kRows, bool kMirrored>
struct FusedBlock {
  static constexpr int kPixelBytes = kSlice * int(sizeof(S)), kSteps = kPixelBytes / 32, kWide = 4 / int(sizeof(S));
  const FusedTask<S>& task;
  const DenseNet& net;
  unsigned char* shared;
  int origin, col0, row0, row1;  // image rows [row0, row1) are stored
  int warp_col, half;            // of this warp
  int lane;

  __device__ __forceinline__ FusedBlock(const FusedTask<S>& t, unsigned char* memory)
      : task(t), net(t.packed.net), shared(memory) {
    const FusedGeometry& g = t.geometry;
    row0 = t.strips.row0 + static_cast<int>(blockIdx.y) * g.block_rows;
    row1 = min(row0 + g.block_rows, t.strips.row1);
    col0 = t.strips.col0 + static_cast<int>(blockIdx.x) * g.strip - net.hidden;
    origin = row0 - 2 * net.hidden - 2;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    lane = static_cast<int>(threadIdx.x) % 32;
    warp_col = warp % (g.cols / 16) * 16;
    half = warp / (g.cols / 16);
  }

  // The image's number among those of all nets, its net, and its number there. Computed anew: registers are few.
  __device__ __forceinline__ int number() const { return static_cast<int>(blockIdx.z); }
  __device__ __forceinline__ int which() const { return net_of(number(), task.images); }
  __device__ __forceinline__ int image() const { return number() - which() * task.images; }

  // Slice `slice` of level j's ring, and the bytes of its rows.
  __device__ __forceinline__ unsigned char* ring(int j, int slice) const {
    return shared + ring_offset(net, task.geometry.cols, kRows, int(sizeof(S)), j) +
           slice * ring_rows(net.hidden, kRows, j) * ring_row_bytes(task.geometry.cols, int(sizeof(S)));
  }
  __device__ __forceinline__ unsigned char* stage(int i) const {
    return ring(net.hidden + 1, 0) + i * stage_bytes(int(sizeof(S)));
  }
  __device__ __forceinline__ S* source_ring() const {
    return reinterpret_cast<S*>(shared + source_offset(net, task.geometry.cols, kRows, int(sizeof(S))));
  }
  __device__ __forceinline__ int source_rows() const { return source_ring_rows(net.hidden, kRows); }

  // Rows [from, to) of source 0, rounded, zeros where it cannot be read.
  __device__ __forceinline__ void load_source(int from, int to) const {
    const int pixels = task.geometry.cols + 2, rows = to - from;
    for (int i = threadIdx.x; i < net.in_channels * rows * pixels; i += blockDim.x) {
      const int p = i % pixels, row = from + i / pixels % rows, channel = i / pixels / rows, col = col0 + p - 1;
      float v = 0.0f;
      if (task.readable.contains(row, col)) v = *task.source[which()].at(image(), channel, row, col);
      source_ring()[(channel * source_rows() + (row - origin) % source_rows()) * pixels + p] =
          to_operand<S>(v, task.operand);
    }
  }

  // The weights of slice s of level m, on the way to their stage.
  __device__ __forceinline__ void fetch(int m, int s, unsigned char* to) const {
    const int first_slices = net.source_slices(), tiles = net.output_tiles(m);
    const int matrix = net.tile_outputs(m) * kSlice, matrix_bytes = matrix * int(sizeof(S));
    const bool centre = s < first_slices;
    const int bytes = (centre ? 1 : 9) * matrix_bytes;
    const std::int64_t first = centre ? s : first_slices + 9 * (s - first_slices);
    for (int i = threadIdx.x * 16; i < tiles * bytes; i += blockDim.x * 16) {
      const int tile = i / bytes, at = i % bytes;
      const S* from = task.weights + which() * task.packed.elements() + task.packed.offset[m - 1] +
                      (tile * net.groups(m) + first) * matrix;
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
                if (channel < net.in_channels)
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
    const int rows = ring_rows(net.hidden, kRows, j);
    const int row_bytes = ring_row_bytes(task.geometry.cols, int(sizeof(S)));
    const unsigned char* from = ring(j, slice);
    int at[kRows + 2];  // bytes of the rows above, of, and below
    at[0] = (row - 1 - origin) % rows * row_bytes;
#pragma unroll
    for (int r = 1; r < kRows + 2; ++r) at[r] = at[r - 1] + row_bytes == rows * row_bytes ? 0 : at[r - 1] + row_bytes;
#pragma unroll 1
    for (int kw = 0; kw < 3; ++kw) {
      const int p = warp_col + lane % 16 + kw;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const unsigned char* own = from + p * kPixelBytes + ((step * 2 + lane / 16) ^ swizzle<S>(p)) * 16;
        multiply_rows<S, kTiles, 3, kRows>(
            acc, [&](std::uint32_t (&a)[4], int r) { ldmatrix<4>(a, own + at[r]); },
            weights + kw * 3 * kSteps * step_words + step * step_words, kSteps * step_words);
      }
    }
  }

  // Hidden level m's rows from `row` into its ring; zeros where it has no values.
  __device__ __forceinline__ void store_hidden(const float (&acc)[kRows][2][4], int m, int row) const {
    const int rows = ring_rows(net.hidden, kRows, m);
    const int row_bytes = ring_row_bytes(task.geometry.cols, int(sizeof(S)));
    unsigned char* own = ring(m, half);
    const float* bias = task.bias + which() * task.packed.bias_elements() + task.packed.bias_offset[m - 1] +
                        half * kSlice + lane % 4 * 2;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      unsigned char* to = own + (row + r - origin) % rows * row_bytes;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int lower = 0; lower < 2; ++lower) {
          const int col = warp_col + lane / 4 + lower * 8, p = col + 1, channel = n * 8 + lane % 4 * 2;
          const bool inside = task.held.contains(row + r, col0 + col);
          Pack<S, 2> values, sign;
          if (kMirrored && inside)
            sign = *reinterpret_cast<const Pack<S, 2>*>(
                task.mask.at(number(), (net.hidden - m) * net.level_slices() + half, row + r, col0 + col) + channel);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const float sum = acc[r][n][lower * 2 + i], v = kMirrored ? sum : sum + bias[n * 8 + i];
            values.v[i] = to_operand<S>(0.0f, task.operand);
            if (inside)
              values.v[i] = to_operand<S>(leaky(v, kMirrored ? from_operand(sign.v[i]) : v, task.slope), task.operand);
          }
          const int byte = channel * int(sizeof(S));
          *reinterpret_cast<Pack<S, 2>*>(to + p * kPixelBytes + (byte / 16 ^ swizzle<S>(p)) * 16 + byte % 16) = values;
        }
    }
  }

  // A copy of hidden level m's rows from `row`, as far as they belong to the block.
  __device__ __forceinline__ void keep_hidden(int m, int row) const {
    constexpr int kChunks = kPixelBytes / 16;
    const int first = col0 + net.hidden, strip = min(task.geometry.strip, task.strips.col1 - first);
    const int rows = ring_rows(net.hidden, kRows, m), slices = net.level_slices();
    const int row_bytes = ring_row_bytes(task.geometry.cols, int(sizeof(S)));
    for (int i = threadIdx.x; i < slices * kRows * strip * kChunks; i += blockDim.x) {
      const int chunk = i % kChunks, col = i / kChunks % strip, r = i / kChunks / strip % kRows;
      const int slice = i / kChunks / strip / kRows, p = net.hidden + col + 1;
      if (row + r < row0 || row + r >= row1) continue;
      const unsigned char* from = ring(m, slice) + (row + r - origin) % rows * row_bytes + p * kPixelBytes;
      S* to = task.hidden.at(number(), (m - 1) * slices + slice, row + r, first + col);
      reinterpret_cast<uint4*>(to)[chunk] = reinterpret_cast<const uint4*>(from)[chunk ^ swizzle<S>(p)];
    }
  }

  // The output level's rows from `row`, where they belong to the block.
  __device__ __forceinline__ void store_output(const float (&acc)[kRows][1][4], int row) const {
    const int first = half * 8 + lane % 4 * 2, level = net.hidden;
    const float* bias = task.bias + which() * task.packed.bias_elements() + task.packed.bias_offset[level] + first;
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int col = warp_col + lane / 4 + i / 2 * 8, out = first + i % 2;
        const bool own = col >= level && col < level + task.geometry.strip && row + r >= row0 && row + r < row1;
        if (!own || !task.own.contains(row + r, col0 + col) || out >= net.out_channels) continue;
        *task.image[which()].at(image(), out, row + r, col0 + col) =
            kMirrored ? acc[r][0][i] : acc[r][0][i] + bias[i % 2];
      }
  }
};

template <typename S, int kRows, bool kMirrored>
__global__ void __launch_bounds__(most_fused_threads(sizeof(S)), 1)
    fused_kernel(const __grid_constant__ FusedTask<S> task) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  __trap();  // never chosen there
#else
  unsigned char* shared = dynamic_shared<unsigned char>();
  const FusedBlock<S, kRows, kMirrored> block(task, shared);
  const DenseNet& net = task.packed.net;
  const int hidden = net.hidden, first_slices = net.source_slices(), slices = net.level_slices();
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
      const bool active = block.half < (is_output ? net.output_tiles(m) : slices);
      const int count = first_slices + (m - 1) * slices, own = row - (m - 1);
      const int tile_words = 9 * 8 * kSlice * int(sizeof(S)) / 4;  // of the output level's tiles
      float acc[kRows][2][4] = {}, out[kRows][1][4] = {};
      for (int s = 0; s < count; ++s) {
        cp_async_wait<0>();
        __syncthreads();  // the stage is there, so is what other warps have put into rings, and the other stage is free
        const bool last = s + 1 == count;
        if (!last || m <= hidden || row + kRows < end)
          block.fetch(last ? (is_output ? 1 : m + 1) : m, last ? 0 : s + 1, block.stage(stage ^ 1));
        if (s == 0 && m > 1 && task.hidden.data != nullptr) block.keep_hidden(m - 1, own + 1);
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
#endif
}

}  // namespace ivan_fast::cuda
