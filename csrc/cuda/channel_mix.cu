// Channel mix on CUDA. Up to kFusedChannels channels every tensor is read or written once, in the backward too; its
// grad_weight is summed in two stages of fixed order, without atomics: deterministic, and alike on every device.
#include "ivan_fast/channel_mix.h"
#include "ivan_fast/scalar.h"
#include "pointwise.cuh"

namespace ivan_fast::cuda {
namespace {

constexpr int kWarps = kPointwiseThreads / 32;
constexpr std::int64_t kChunk = 1024;  // pixels that a block takes at once where the channels are more than fused
constexpr int kFusedChannels = 4;  // up to here a thread holds the weight, and its sums of grad_weight, in registers

template <typename T>
struct MixOperands {
  const T* x;             // [N, C, P], any batch stride
  std::int64_t x_stride;  // in elements
  const T* weight;        // [C, C]
  T* y;                   // [N, C, P], contiguous
  std::int64_t batch, channels, pixels;
  std::int64_t row_step, column_step;  // of weight: C, 1, or 1, C to multiply by its transpose
};

// y[n, i, p] = sum_j weight[i, j] x[n, j, p], j ascending. kChannels 0: any number, inputs are read again for each
// output (they stay in L1).
template <typename T, int kChannels>
struct Mix {
  static constexpr bool kHoldsWeight = kChannels != 0 && kChannels <= kFusedChannels;
  const MixOperands<T>& o;
  T held_weight[kHoldsWeight ? kChannels * kChannels : 1];

  __device__ __forceinline__ explicit Mix(const MixOperands<T>& operands) : o(operands) {
    if constexpr (kHoldsWeight) {
#pragma unroll
      for (int i = 0; i < kChannels * kChannels; ++i) {
        held_weight[i] = o.weight[i / kChannels * o.row_step + i % kChannels * o.column_step];
      }
    }
  }

  __device__ __forceinline__ T weight(int i, int j) const {
    if constexpr (kHoldsWeight) return held_weight[i * kChannels + j];
    return __ldg(o.weight + i * o.row_step + j * o.column_step);
  }

  template <int kWidth>
  __device__ __forceinline__ void read(std::int64_t sample, std::int64_t p, Pack<T, kWidth> (&in)[kChannels]) const {
    const T* from = o.x + sample * o.x_stride + p;
#pragma unroll
    for (int j = 0; j < kChannels; ++j) in[j] = load<kWidth>(from + j * o.pixels);
  }

  template <int kWidth>
  __device__ __forceinline__ void write(std::int64_t sample, std::int64_t p,
                                        const Pack<T, kWidth> (&in)[kChannels]) const {
    T* to = o.y + sample * kChannels * o.pixels + p;
    [[maybe_unused]] constexpr int kRows =
        kHoldsWeight ? kChannels : 1;  // a weight that is not held must not be hoisted either
#pragma unroll kRows
    for (int i = 0; i < kChannels; ++i) {
      Pack<T, kWidth> sum;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) sum.v[k] = weight(i, 0) * in[0].v[k];
#pragma unroll
      for (int j = 1; j < kChannels; ++j) {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) sum.v[k] = multiply_add(weight(i, j), in[j].v[k], sum.v[k]);
      }
      store<kWidth>(to + i * o.pixels, sum);
    }
  }

  template <int kWidth>
  __device__ __forceinline__ void at(std::int64_t sample, std::int64_t p) {
    if constexpr (kChannels != 0) {
      Pack<T, kWidth> in[kChannels];
      read<kWidth>(sample, p, in);
      write<kWidth>(sample, p, in);
    } else {
      const T* from = o.x + sample * o.x_stride + p;
      T* to = o.y + sample * o.channels * o.pixels + p;
      for (int i = 0; i < o.channels; ++i) {
        Pack<T, kWidth> in = load<kWidth>(from), sum;
#pragma unroll
        for (int k = 0; k < kWidth; ++k) sum.v[k] = weight(i, 0) * in.v[k];
        for (int j = 1; j < o.channels; ++j) {
          in = load<kWidth>(from + j * o.pixels);
#pragma unroll
          for (int k = 0; k < kWidth; ++k) sum.v[k] = multiply_add(weight(i, j), in.v[k], sum.v[k]);
        }
        store<kWidth>(to + i * o.pixels, sum);
      }
    }
  }
};

template <typename T, int kChannels, int kWidth>
__global__ void __launch_bounds__(kPointwiseThreads, 2) mix_kernel(const MixOperands<T> o) {
  Mix<T, kChannels> work(o);
  for_each_item<kWidth>(work, o.batch, o.pixels, o.x, o.x_stride);
}

__device__ __forceinline__ double warp_sum(double value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
  return value;
}

// Both gradients in one pass: mix of grad_y by the transposed weight, and sums[i, j] of grad_y[i] x[j].
template <typename T, int kChannels>
struct MixBackward {
  Mix<T, kChannels> mix;
  const T* x;  // [N, C, P], any batch stride
  std::int64_t x_stride;
  T sums[kChannels * kChannels];

  template <int kWidth>
  __device__ __forceinline__ void at(std::int64_t sample, std::int64_t p) {
    Pack<T, kWidth> grad[kChannels], in[kChannels];
    mix.template read<kWidth>(sample, p, grad);
    const T* from = x + sample * x_stride + p;
#pragma unroll
    for (int j = 0; j < kChannels; ++j) in[j] = load<kWidth>(from + j * mix.o.pixels);
    mix.template write<kWidth>(sample, p, grad);
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
#pragma unroll
      for (int j = 0; j < kChannels; ++j) {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          sums[i * kChannels + j] = multiply_add(grad[i].v[k], in[j].v[k], sums[i * kChannels + j]);
        }
      }
    }
  }
};

// o.x is grad_y, o.y is grad_x; partial: [blocks, C, C].
template <typename T, int kChannels, int kWidth>
__global__ void __launch_bounds__(kPointwiseThreads, kChannels * sizeof(T) > 16 ? 1 : 2)
    mix_backward_kernel(const MixOperands<T> o, const T* x, std::int64_t x_stride, double* partial) {
  constexpr int kPairs = kChannels * kChannels;
  MixBackward<T, kChannels> work{Mix<T, kChannels>(o), x, x_stride, {}};
  for_each_item<kWidth>(work, o.batch, o.pixels, o.x, o.x_stride);
  __shared__ double warp_sums[kWarps][kPairs];
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) {
    const double sum = warp_sum(work.sums[pair]);
    if (thread % 32 == 0) warp_sums[thread / 32][pair] = sum;
  }
  __syncthreads();
  if (thread < kPairs) {
    double sum = 0;
    for (int warp = 0; warp < kWarps; ++warp) sum += warp_sums[warp][thread];
    partial[(std::int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * kPairs + thread] = sum;
  }
}

// For more channels: partial[block, i, j] = sum of grad_y[n, i, p] x[n, j, p] over the block's chunks, each of kChunk
// pixels, which stay in L1 while its pairs (i, j) are computed, one warp per pair in turn.
template <typename T>
__global__ void __launch_bounds__(kPointwiseThreads)
    mix_partial_kernel(const T* grad_y, std::int64_t grad_stride, const T* x, std::int64_t x_stride, double* partial,
                       std::int64_t chunks, int channels, std::int64_t pixels) {
  const std::int64_t per_sample = (pixels + kChunk - 1) / kChunk;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pairs = channels * channels;
  double* own_partial = partial + std::int64_t(blockIdx.x) * pairs;
  for (std::int64_t chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const std::int64_t sample = chunk / per_sample, begin = chunk % per_sample * kChunk;
    const std::int64_t left = pixels - begin;
    const int count = static_cast<int>(left < kChunk ? left : kChunk);
    for (int pair = warp; pair < pairs; pair += kWarps) {
      const T* a = grad_y + sample * grad_stride + pair / channels * pixels + begin;
      const T* b = x + sample * x_stride + pair % channels * pixels + begin;
      T own = T(0);
      for (int p = lane; p < count; p += 32) own = multiply_add(a[p], b[p], own);
      const double sum = warp_sum(own);
      if (lane == 0) own_partial[pair] = chunk == blockIdx.x ? sum : own_partial[pair] + sum;
    }
  }
}

// grad_weight[pair] = sum over blocks of partial[block, pair], in a fixed order; one block per pair.
template <typename T>
__global__ void __launch_bounds__(kPointwiseThreads)
    mix_reduce_kernel(const double* partial, T* grad_weight, std::int64_t blocks, int pairs) {
  __shared__ double warp_sums[kWarps];
  const int pair = static_cast<int>(blockIdx.x);
  double own = 0;
  for (std::int64_t block = threadIdx.x; block < blocks; block += kPointwiseThreads) {
    own += partial[block * pairs + pair];
  }
  const double sum = warp_sum(own);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    double all = 0;
    for (int warp = 0; warp < kWarps; ++warp) all += warp_sums[warp];
    grad_weight[pair] = static_cast<T>(all);
  }
}

template <typename T>
MixOperands<T> mix_operands(const Input& x, const Input& weight, void* y, std::int64_t batch, std::int64_t channels,
                            std::int64_t pixels, bool transposed) {
  return {static_cast<const T*>(x.data),
          x.batch_stride,
          static_cast<const T*>(weight.data),
          static_cast<T*>(y),
          batch,
          channels,
          pixels,
          transposed ? 1 : channels,
          transposed ? channels : 1};
}

// Whether packs of 16 bytes serve all channels of all operands.
template <typename T>
bool packs(std::initializer_list<Operand> operands, const MixOperands<T>& o) {
  return (o.channels == 1 || o.pixels % kPackWidth<T> == 0) && aligned_alike(operands, o.batch, sizeof(T));
}

template <typename T, int kWidth>
void mix_width(const MixOperands<T>& o, cudaStream_t stream) {
  const PointwiseLaunch l = pointwise_launch(o.batch, most_items(o.pixels, kWidth));
  const auto run = [&](void (*kernel)(MixOperands<T>)) {
    launch("channel_mix", kernel, dim3(l.grid_x, l.grid_y), dim3(l.block_x, l.block_y), 0, stream, o);
  };
  switch (o.channels) {
    case 1:
      return run(mix_kernel<T, 1, kWidth>);
    case 2:
      return run(mix_kernel<T, 2, kWidth>);
    case 3:
      return run(mix_kernel<T, 3, kWidth>);
    case 4:
      return run(mix_kernel<T, 4, kWidth>);
    case 6:
      return run(mix_kernel<T, 6, kWidth>);
    case 8:
      return run(mix_kernel<T, 8, kWidth>);
    default:
      return run(mix_kernel<T, 0, kWidth>);
  }
}

template <typename T>
void mix(const MixOperands<T>& o, cudaStream_t stream) {
  const std::int64_t sample = o.channels * o.pixels;
  if (packs({Operand{reinterpret_cast<std::uintptr_t>(o.x), o.x_stride}, operand(o.y, sample)}, o)) {
    mix_width<T, kPackWidth<T>>(o, stream);
  } else {
    mix_width<T, 1>(o, stream);
  }
}

// The number of blocks that left partial sums.
template <typename T, int kWidth>
std::int64_t backward_width(const MixOperands<T>& o, const Input& x, double* partial, cudaStream_t stream) {
  const PointwiseLaunch l = pointwise_launch(o.batch, most_items(o.pixels, kWidth), kMixBackwardBlocks);
  const auto run = [&](void (*kernel)(MixOperands<T>, const T*, std::int64_t, double*)) {
    launch("channel_mix_backward", kernel, dim3(l.grid_x, l.grid_y), dim3(l.block_x, l.block_y), 0, stream, o,
           static_cast<const T*>(x.data), x.batch_stride, partial);
    return block_count(l);
  };
  static_assert(kFusedChannels == 4);
  switch (o.channels) {
    case 1:
      return run(mix_backward_kernel<T, 1, kWidth>);
    case 2:
      return run(mix_backward_kernel<T, 2, kWidth>);
    case 3:
      return run(mix_backward_kernel<T, 3, kWidth>);
    default:
      return run(mix_backward_kernel<T, 4, kWidth>);
  }
}

template <typename T>
std::int64_t backward_partial(const ChannelMixBackwardParams& p, cudaStream_t stream) {
  const auto o = mix_operands<T>(p.grad_y, p.weight, p.grad_x, p.batch, p.channels, p.pixels, true);
  if (p.channels <= kFusedChannels) {
    const bool wide = packs({operand(p.grad_y), operand(p.x), operand(p.grad_x, p.channels * p.pixels)}, o);
    return wide ? backward_width<T, kPackWidth<T>>(o, p.x, p.partial, stream)
                : backward_width<T, 1>(o, p.x, p.partial, stream);
  }
  mix(o, stream);
  const std::int64_t chunks = p.batch * ((p.pixels + kChunk - 1) / kChunk);
  const std::int64_t blocks = channel_mix_partials(p.batch, p.channels, p.pixels);
  launch("channel_mix_backward", mix_partial_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(kPointwiseThreads), 0,
         stream, o.x, o.x_stride, static_cast<const T*>(p.x.data), p.x.batch_stride, p.partial, chunks,
         static_cast<int>(p.channels), p.pixels);
  return blocks;
}

template <typename T>
void backward(const ChannelMixBackwardParams& p, cudaStream_t stream) {
  const std::int64_t blocks = p.batch * p.pixels == 0 ? 0 : backward_partial<T>(p, stream);
  const std::int64_t pairs = p.channels * p.channels;
  launch("channel_mix_backward", mix_reduce_kernel<T>, dim3(static_cast<unsigned>(pairs)), dim3(kPointwiseThreads), 0,
         stream, p.partial, static_cast<T*>(p.grad_weight), blocks, static_cast<int>(pairs));
}

}  // namespace

std::int64_t channel_mix_partials(std::int64_t batch, std::int64_t channels, std::int64_t pixels) {
  if (channels <= kFusedChannels) return mix_backward_partials(batch, pixels);
  const std::int64_t chunks = batch * ((pixels + kChunk - 1) / kChunk);
  return chunks < kMixBackwardBlocks ? chunks : kMixBackwardBlocks;
}

void channel_mix(const ChannelMixParams& p, void* stream) {
  if (p.batch * p.channels * p.pixels == 0) return;
  if (p.dtype == DType::kFloat64) {
    mix(mix_operands<double>(p.x, p.weight, p.y, p.batch, p.channels, p.pixels, false),
        static_cast<cudaStream_t>(stream));
  } else {
    mix(mix_operands<float>(p.x, p.weight, p.y, p.batch, p.channels, p.pixels, false),
        static_cast<cudaStream_t>(stream));
  }
}

void channel_mix_backward(const ChannelMixBackwardParams& p, void* stream) {
  if (p.channels == 0) return;
  if (p.dtype == DType::kFloat64) {
    backward<double>(p, static_cast<cudaStream_t>(stream));
  } else {
    backward<float>(p, static_cast<cudaStream_t>(stream));
  }
}

}  // namespace ivan_fast::cuda
