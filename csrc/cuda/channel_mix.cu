// Channel mix on CUDA. grad_weight in two stages of fixed order, without atomics: deterministic.
#include "common.cuh"
#include "ivan_fast/channel_mix.h"
#include "ivan_fast/scalar.h"

namespace ivan_fast::cuda {
namespace {

constexpr int kRegisterChannels = 8;  // up to here a thread holds all channels of its pixels in registers

// y[n, i, p] = sum_j weight[i * row_step + j * column_step] x[n, j, p], j ascending; a thread owns kWidth pixels.
// kChannels 0: any number, inputs are read again for each output (they stay in L1).
template <typename T, int kChannels, int kWidth>
__global__ void __launch_bounds__(kThreads)
    mix_kernel(const T* __restrict__ x, std::int64_t x_stride, const T* __restrict__ weight, T* __restrict__ y,
               std::int64_t batch, int any_channels, std::int64_t pixels, int row_step, int column_step) {
  using P = Pack<T, kWidth>;
  const int channels = kChannels == 0 ? any_channels : kChannels;
  const std::int64_t packs = pixels / kWidth, all = batch * packs;
  const std::int64_t step = std::int64_t(gridDim.x) * blockDim.x;
  for (std::int64_t item = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; item < all; item += step) {
    const std::int64_t sample = item / packs, p = (item - sample * packs) * kWidth;
    const T* from = x + sample * x_stride + p;
    T* to = y + sample * channels * pixels + p;
    P held[kChannels == 0 ? 1 : kChannels];
    if constexpr (kChannels != 0) {
#pragma unroll
      for (int j = 0; j < kChannels; ++j) held[j] = *reinterpret_cast<const P*>(from + j * pixels);
    }
#pragma unroll
    for (int i = 0; i < channels; ++i) {
      P sum;
#pragma unroll
      for (int j = 0; j < channels; ++j) {
        P in;
        if constexpr (kChannels != 0) {
          in = held[j];
        } else {
          in = *reinterpret_cast<const P*>(from + j * pixels);
        }
        const T w = weight[i * row_step + j * column_step];
#pragma unroll
        for (int k = 0; k < kWidth; ++k) sum.v[k] = j == 0 ? w * in.v[k] : multiply_add(w, in.v[k], sum.v[k]);
      }
      *reinterpret_cast<P*>(to + i * pixels) = sum;
    }
  }
}

// partial[chunk, i, j] = sum of grad_y[n, i, p] x[n, j, p] over the chunk's pixels; one block per chunk, one warp per
// pair (i, j) in turn. The chunk stays in L1 while its pairs are computed.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    mix_partial_kernel(const T* __restrict__ grad_y, std::int64_t grad_stride, const T* __restrict__ x,
                       std::int64_t x_stride, double* __restrict__ partial, std::int64_t chunks, int channels,
                       std::int64_t pixels) {
  const std::int64_t per_sample = (pixels + kMixChunk - 1) / kMixChunk;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (std::int64_t chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const std::int64_t sample = chunk / per_sample, begin = chunk % per_sample * kMixChunk;
    const std::int64_t left = pixels - begin;
    const int count = static_cast<int>(left < kMixChunk ? left : kMixChunk);
    for (int pair = warp; pair < channels * channels; pair += kThreads / 32) {
      const T* a = grad_y + sample * grad_stride + pair / channels * pixels + begin;
      const T* b = x + sample * x_stride + pair % channels * pixels + begin;
      T own = T(0);
      for (int p = lane; p < count; p += 32) own = multiply_add(a[p], b[p], own);
      double sum = own;
      for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
      if (lane == 0) partial[chunk * channels * channels + pair] = sum;
    }
  }
}

// grad_weight[pair] = sum over chunks of partial[chunk, pair], in a fixed order; one block per pair.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    mix_reduce_kernel(const double* __restrict__ partial, T* __restrict__ grad_weight, std::int64_t chunks, int pairs) {
  __shared__ double sums[kThreads];
  for (int pair = blockIdx.x; pair < pairs; pair += gridDim.x) {
    double own = 0;
    for (std::int64_t chunk = threadIdx.x; chunk < chunks; chunk += kThreads) own += partial[chunk * pairs + pair];
    sums[threadIdx.x] = own;
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0) grad_weight[pair] = static_cast<T>(sums[0]);
    __syncthreads();
  }
}

struct MixShape {
  std::int64_t batch, channels, pixels;
  bool transposed;  // multiply by the transposed weight
};

template <typename T, int kChannels, int kWidth>
void launch_mix(const Input& x, const Input& weight, void* y, const MixShape& s, cudaStream_t stream) {
  const int channels = static_cast<int>(s.channels);
  launch("channel_mix", mix_kernel<T, kChannels, kWidth>, blocks_for(s.batch * s.pixels / kWidth), kThreads, 0, stream,
         static_cast<const T*>(x.data), x.batch_stride, static_cast<const T*>(weight.data), static_cast<T*>(y), s.batch,
         channels, s.pixels, s.transposed ? 1 : channels, s.transposed ? channels : 1);
}

template <typename T, int kWidth>
void mix_width(const Input& x, const Input& weight, void* y, const MixShape& s, cudaStream_t stream) {
  static_assert(kRegisterChannels == 8);
  switch (s.channels) {
    case 2:
      return launch_mix<T, 2, kWidth>(x, weight, y, s, stream);
    case 3:
      return launch_mix<T, 3, kWidth>(x, weight, y, s, stream);
    case 4:
      return launch_mix<T, 4, kWidth>(x, weight, y, s, stream);
    case 6:
      return launch_mix<T, 6, kWidth>(x, weight, y, s, stream);
    case 8:
      return launch_mix<T, 8, kWidth>(x, weight, y, s, stream);
    default:
      return launch_mix<T, 0, kWidth>(x, weight, y, s, stream);
  }
}

template <typename T>
void mix(const Input& x, const Input& weight, void* y, const MixShape& s, cudaStream_t stream) {
  if (s.pixels % kPackWidth<T> == 0 && aligned16(y) && aligned16(x, s.batch, sizeof(T))) {
    mix_width<T, kPackWidth<T>>(x, weight, y, s, stream);
  } else {
    mix_width<T, 1>(x, weight, y, s, stream);
  }
}

template <typename T>
void backward(const ChannelMixBackwardParams& p, cudaStream_t stream) {
  const std::int64_t chunks = mix_chunks(p.batch, p.pixels);
  const int channels = static_cast<int>(p.channels), pairs = channels * channels;
  if (chunks > 0) {
    mix<T>(p.grad_y, p.weight, p.grad_x, {p.batch, p.channels, p.pixels, true}, stream);
    launch("channel_mix_backward", mix_partial_kernel<T>, static_cast<unsigned>(chunks < (1 << 16) ? chunks : 1 << 16),
           kThreads, 0, stream, static_cast<const T*>(p.grad_y.data), p.grad_y.batch_stride,
           static_cast<const T*>(p.x.data), p.x.batch_stride, p.partial, chunks, channels, p.pixels);
  }
  launch("channel_mix_backward", mix_reduce_kernel<T>, static_cast<unsigned>(pairs < (1 << 16) ? pairs : 1 << 16),
         kThreads, 0, stream, p.partial, static_cast<T*>(p.grad_weight), chunks, pairs);
}

}  // namespace

void channel_mix(const ChannelMixParams& p, void* stream) {
  if (p.batch * p.channels * p.pixels == 0) return;
  const MixShape shape{p.batch, p.channels, p.pixels, false};
  if (p.dtype == DType::kFloat64) {
    mix<double>(p.x, p.weight, p.y, shape, static_cast<cudaStream_t>(stream));
  } else {
    mix<float>(p.x, p.weight, p.y, shape, static_cast<cudaStream_t>(stream));
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
