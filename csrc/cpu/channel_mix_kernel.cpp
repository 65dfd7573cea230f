// Channel mix on the CPU; compiled once for each instruction set (isa.h). The loops are left to the vectoriser.
#include "ivan_fast/channel_mix.h"
#include "ivan_fast/scalar.h"

namespace ivan_fast::cpu::IVAN_ISA {
namespace {

constexpr std::int64_t kTile = 64;   // pixels whose sums stay in registers
constexpr std::int64_t kLanes = 16;  // independent partial sums of a dot product: the order of summation is fixed

struct Chunk {
  std::int64_t sample, begin, count;  // pixels begin .. begin + count of one sample
};

Chunk chunk_at(std::int64_t index, std::int64_t pixels) {
  const std::int64_t per_sample = (pixels + kMixChunk - 1) / kMixChunk;
  const std::int64_t begin = index % per_sample * kMixChunk;
  return {index / per_sample, begin, pixels - begin < kMixChunk ? pixels - begin : kMixChunk};
}

// y[i, p] = sum_j weight[i * row_step + j * column_step] x[j, p] over one chunk, j ascending.
template <typename T>
void mix(const T* __restrict x, const T* __restrict weight, T* __restrict y, std::int64_t channels, std::int64_t pixels,
         std::int64_t count, std::int64_t row_step, std::int64_t column_step) {
  for (std::int64_t tile = 0; tile < count; tile += kTile) {
    const std::int64_t width = count - tile < kTile ? count - tile : kTile;
    for (std::int64_t i = 0; i < channels; ++i) {
      T sum[kTile];
      if (width == kTile) {  // the full tile has a constant width, so that `sum` lives in registers
        for (std::int64_t p = 0; p < kTile; ++p) sum[p] = weight[i * row_step] * x[tile + p];
        for (std::int64_t j = 1; j < channels; ++j) {
          const T w = weight[i * row_step + j * column_step];
          for (std::int64_t p = 0; p < kTile; ++p) sum[p] = multiply_add(w, x[j * pixels + tile + p], sum[p]);
        }
      } else {
        for (std::int64_t p = 0; p < width; ++p) sum[p] = weight[i * row_step] * x[tile + p];
        for (std::int64_t j = 1; j < channels; ++j) {
          const T w = weight[i * row_step + j * column_step];
          for (std::int64_t p = 0; p < width; ++p) sum[p] = multiply_add(w, x[j * pixels + tile + p], sum[p]);
        }
      }
      for (std::int64_t p = 0; p < width; ++p) y[i * pixels + tile + p] = sum[p];
    }
  }
}

// sum_p a[p] b[p]: kLanes sums in T, then their sum in double.
template <typename T>
double dot(const T* __restrict a, const T* __restrict b, std::int64_t count) {
  T lanes[kLanes] = {};
  const std::int64_t whole = count / kLanes * kLanes;
  for (std::int64_t p = 0; p < whole; p += kLanes) {
    for (std::int64_t l = 0; l < kLanes; ++l) lanes[l] = multiply_add(a[p + l], b[p + l], lanes[l]);
  }
  for (std::int64_t l = 0; l < count - whole; ++l) lanes[l] = multiply_add(a[whole + l], b[whole + l], lanes[l]);
  double sum = 0;
  for (std::int64_t l = 0; l < kLanes; ++l) sum += static_cast<double>(lanes[l]);
  return sum;
}

template <typename T>
void forward(const ChannelMixParams& params, std::int64_t begin_chunk, std::int64_t end_chunk) {
  for (std::int64_t index = begin_chunk; index < end_chunk; ++index) {
    const Chunk c = chunk_at(index, params.pixels);
    mix(static_cast<const T*>(params.x.data) + c.sample * params.x.batch_stride + c.begin,
        static_cast<const T*>(params.weight.data),
        static_cast<T*>(params.y) + c.sample * params.channels * params.pixels + c.begin, params.channels, params.pixels,
        c.count, params.channels, 1);
  }
}

template <typename T>
void backward(const ChannelMixBackwardParams& params, std::int64_t begin_chunk, std::int64_t end_chunk) {
  const std::int64_t channels = params.channels, pixels = params.pixels;
  for (std::int64_t index = begin_chunk; index < end_chunk; ++index) {
    const Chunk c = chunk_at(index, pixels);
    const T* grad_y = static_cast<const T*>(params.grad_y.data) + c.sample * params.grad_y.batch_stride + c.begin;
    const T* x = static_cast<const T*>(params.x.data) + c.sample * params.x.batch_stride + c.begin;
    T* grad_x = static_cast<T*>(params.grad_x) + c.sample * channels * pixels + c.begin;
    mix(grad_y, static_cast<const T*>(params.weight.data), grad_x, channels, pixels, c.count, 1, channels);
    double* partial = params.partial + index * channels * channels;
    for (std::int64_t i = 0; i < channels; ++i) {
      for (std::int64_t j = 0; j < channels; ++j) {
        partial[i * channels + j] = dot(grad_y + i * pixels, x + j * pixels, c.count);
      }
    }
  }
}

}  // namespace

void channel_mix(const ChannelMixParams& params, std::int64_t begin_chunk, std::int64_t end_chunk) {
  if (params.dtype == DType::kFloat64) {
    forward<double>(params, begin_chunk, end_chunk);
  } else {
    forward<float>(params, begin_chunk, end_chunk);
  }
}

void channel_mix_backward(const ChannelMixBackwardParams& params, std::int64_t begin_chunk, std::int64_t end_chunk) {
  if (params.dtype == DType::kFloat64) {
    backward<double>(params, begin_chunk, end_chunk);
  } else {
    backward<float>(params, begin_chunk, end_chunk);
  }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
