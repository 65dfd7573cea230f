// What the dense block's kernels read and write: slices of 16 channels, and how they get there.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "common.cuh"
#include "dense_block_geometry.h"
#include "ivan_fast/scalar.h"

namespace ivan_fast::cuda {

// A float that holds no more than TF32 does.
struct Tf32 {
  float value;
};

// To TF32: 10 bits of fraction, to nearest, ties away from zero, as the conversion instruction does.
IVAN_BOTH inline float round_to_tf32(float v) {
  union {
    float value;
    std::uint32_t bits;
  } u = {v};
  if ((u.bits & 0x7fffffffu) > 0x7f800000u) return v;  // NaN
  u.bits = (u.bits + 0x1000u) & 0xffffe000u;
  return u.value;
}

// `v` as an operand of type S. In float and double, which hold any, `operand` says what it is rounded to.
template <typename S, typename T>
__device__ inline S to_operand(T v, DenseBlockOperand operand) {
  if constexpr (sizeof(S) == 2) {
    if constexpr (std::is_same_v<S, __half>) {
      return __float2half_rn(static_cast<float>(v));
    } else {
      return __float2bfloat16_rn(static_cast<float>(v));
    }
  } else if constexpr (std::is_same_v<S, Tf32>) {
    return {round_to_tf32(static_cast<float>(v))};
  } else {
    if (operand == DenseBlockOperand::kBFloat16)
      return static_cast<S>(__bfloat162float(__float2bfloat16_rn(static_cast<float>(v))));
    if (operand == DenseBlockOperand::kFloat16)
      return static_cast<S>(__half2float(__float2half_rn(static_cast<float>(v))));
    return static_cast<S>(v);
  }
}

__device__ inline float from_operand(__half v) { return __half2float(v); }
__device__ inline float from_operand(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline float from_operand(Tf32 v) { return v.value; }
__device__ inline float from_operand(float v) { return v; }
__device__ inline double from_operand(double v) { return v; }

// LeakyReLU, or its derivative times v where a mask decides.
template <typename T>
__device__ inline T leaky(T v, T sign, T slope) {
  return sign > T(0) ? v : v * slope;
}

// The rectangle of each image that buffers hold. Pixels beyond it are outside the image, or read for outputs that are
// not stored.
struct Region {
  int row0, row1, col0, col1;
  IVAN_BOTH int rows() const { return row1 - row0; }
  IVAN_BOTH int cols() const { return col1 - col0; }
  IVAN_BOTH bool contains(int row, int col) const { return row >= row0 && row < row1 && col >= col0 && col < col1; }
};

// A tile of the image with `margin` pixels around it.
inline Region region_of(const Tile& tile, int margin, int height, int width) {
  return {std::max(tile.row0 - margin, 0), std::min(tile.row1 + margin, height), std::max(tile.col0 - margin, 0),
          std::min(tile.col1 + margin, width)};
}

// [image][slice][row][column][16]
template <typename S>
struct Slices {
  S* data;
  int count;  // slices of an image
  Region region;
  IVAN_BOTH S* at(int image, int slice, int row, int col) const {
    return data +
           ((std::int64_t(image) * count + slice) * region.rows() + (row - region.row0)) * region.cols() * kSlice +
           std::int64_t(col - region.col0) * kSlice;
  }
};

// Images of the state's type, of which a buffer may hold a part: columns are next to each other.
template <typename T>
struct Images {
  T* data;
  std::int64_t image_stride, channel_stride;
  int row_stride;
  int row0, col0;  // of the first pixel that is held
  IVAN_BOTH T* at(int image, int channel, int row, int col) const {
    return data + image * image_stride + channel * channel_stride + std::int64_t(row - row0) * row_stride +
           (col - col0);
  }
};

template <typename T>
Images<const T> read_only(const Images<T>& i) {
  return {i.data, i.image_stride, i.channel_stride, i.row_stride, i.row0, i.col0};
}

// Whole images, whose samples may lie apart.
template <typename T>
Images<T> whole_images(T* data, std::int64_t batch_stride, int height, int width) {
  return {data, batch_stride, std::int64_t(height) * width, width, 0, 0};
}

// The part of the images within a region.
template <typename T>
Images<T> part_images(T* data, int channels, const Region& region) {
  const std::int64_t pixels = std::int64_t(region.rows()) * region.cols();
  return {data, channels * pixels, pixels, region.cols(), region.row0, region.col0};
}

// One level of each of `nets` nets over a region of some images. Image i of net n is number n * images + i in the
// slices of all nets; source 0 may be shared by them.
template <typename T, typename S>
struct LevelTask {
  int images;
  Slices<S> source;  // slices of source 0
  bool shared_source;
  Slices<S> hidden;                          // of the hidden levels; same region
  int hidden_slices;                         // that this level reads
  const S* weights;                          // packed
  const T* bias;                             // [output_tiles * tile outputs]
  std::int64_t weights_stride, bias_stride;  // from net to net
  int outputs, output_tiles;
  T slope;
  DenseBlockOperand operand;
  Region region;  // to compute
  // A hidden level writes slices `out_slice` .. of `hidden`; with a mask, scaled where the mask's values are not above
  // 0, else through LeakyReLU.
  int out_slice, out_slices;
  bool masked;
  Slices<S> mask;
  int mask_slice;
  // The output level writes images instead, one set for each net.
  bool is_output;
  Images<T> image[kMaxNets];
};

// The net of an image by its number among those of all nets.
IVAN_BOTH inline int net_of(int number, int images) { return number >= images ? 1 : 0; }
static_assert(kMaxNets == 2);

// What a block of a level's kernel works on: blockIdx.z counts tiles of outputs, images and nets, in this order.
struct LevelBlock {
  int tile, net, image, number;  // `number` of the image among those of all nets
  template <typename Task>
  __device__ __forceinline__ explicit LevelBlock(const Task& task) {
    tile = static_cast<int>(blockIdx.z) % task.output_tiles;
    number = static_cast<int>(blockIdx.z) / task.output_tiles;
    net = net_of(number, task.images);
    image = number - net * task.images;
  }
};

// Source 0 of `nets` nets from images of each: channels 9 c + 3 kh + kw are channel c at (row + kh - 1, column + kw -
// 1), channel 9 * channels is 1, the rest 0.
template <typename T>
struct UnfoldTask {
  Images<const T> from[kMaxNets];
  int nets, images, channels, height, width;
  DenseBlockOperand operand;
};

template <typename T, typename S>
__global__ void __launch_bounds__(kThreads) unfold_kernel(Slices<S> to, const __grid_constant__ UnfoldTask<T> task) {
  const int cols = to.region.cols(), pixels = to.region.rows() * cols;
  const std::int64_t all = std::int64_t(task.nets) * task.images * to.count * pixels;
  const std::int64_t step = std::int64_t(gridDim.x) * blockDim.x;
  for (std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < all; i += step) {
    const int pixel = static_cast<int>(i % pixels), slice = static_cast<int>(i / pixels % to.count);
    const int number = static_cast<int>(i / pixels / to.count);
    const int net = net_of(number, task.images), image = number - net * task.images;
    const int row = to.region.row0 + pixel / cols, col = to.region.col0 + pixel % cols;
    Pack<S, kSlice> values;
#pragma unroll
    for (int k = 0; k < kSlice; ++k) {
      const int unfolded = slice * kSlice + k, channel = unfolded / 9, tap = unfolded % 9;
      const int r = row + tap / 3 - 1, c = col + tap % 3 - 1;
      T v = T(0);
      if (channel < task.channels) {
        if (r >= 0 && r < task.height && c >= 0 && c < task.width) v = *task.from[net].at(image, channel, r, c);
      } else if (unfolded == 9 * task.channels) {
        v = T(1);
      }
      values.v[k] = to_operand<S>(v, task.operand);
    }
    S* place = to.at(number, slice, row, col);
    constexpr int kWide = 16 / sizeof(S);
#pragma unroll
    for (int k = 0; k < kSlice; k += kWide)
      *reinterpret_cast<Pack<S, kWide>*>(place + k) = *reinterpret_cast<const Pack<S, kWide>*>(values.v + k);
  }
}

// visit(image, channel, row, column) for every value within a region of some images, shared out among the grid.
template <typename Visit>
__device__ __forceinline__ void for_each_value(const Region& region, int images, int channels, const Visit& visit) {
  const int cols = region.cols(), pixels = region.rows() * cols;
  const std::int64_t all = std::int64_t(images) * channels * pixels;
  const std::int64_t step = std::int64_t(gridDim.x) * blockDim.x;
  for (std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < all; i += step) {
    const int pixel = static_cast<int>(i % pixels);
    visit(static_cast<int>(i / pixels / channels), static_cast<int>(i / pixels % channels), region.row0 + pixel / cols,
          region.col0 + pixel % cols);
  }
}
inline unsigned blocks_for(const Region& region, int images, int channels) {
  return blocks_for(std::int64_t(images) * channels * region.rows() * region.cols());
}

// to = first + second: the gradient of an input that two nets share.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_kernel(Images<T> to, Images<const T> first, Images<const T> second, Region region, int images, int channels) {
  for_each_value(region, images, channels, [&](int image, int channel, int row, int col) {
    *to.at(image, channel, row, col) = *first.at(image, channel, row, col) + *second.at(image, channel, row, col);
  });
}

}  // namespace ivan_fast::cuda
