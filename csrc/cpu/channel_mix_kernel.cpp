// Channel mix on the CPU; compiled once for each instruction set (isa.h). The loops are left to the vectoriser.
#include "ivan_fast/channel_mix.h"
#include "ivan_fast/scalar.h"

namespace ivan_fast::cpu::IVAN_ISA {
namespace {

constexpr std::int64_t kLanes = 32;  // independent partial sums of a dot product: the order of summation is fixed

struct Chunk {
  std::int64_t first_sample, end_sample;
  std::int64_t begin, count;  // pixels begin .. begin + count of each
};

Chunk chunk_at(std::int64_t index, std::int64_t batch, std::int64_t pixels) {
  const std::int64_t samples = mix_chunk_samples(pixels), per_sample = (pixels + kMixChunk - 1) / kMixChunk;
  const std::int64_t first = index / per_sample * samples, begin = index % per_sample * kMixChunk;
  return {first, first + samples < batch ? first + samples : batch, begin,
          pixels - begin < kMixChunk ? pixels - begin : kMixChunk};
}

// sum_j weight[j] x[j * pixels] for j = 0 .. last, ascending; a recursion, since vectorisers want no inner loop.
template <int last, typename T>
IVAN_HOST T weighted_sum(const T* x, std::int64_t pixels, const T* weight) {
  if constexpr (last == 0) {
    return weight[0] * x[0];
  } else {
    return multiply_add(weight[last], x[last * pixels], weighted_sum<last - 1>(x, pixels, weight));
  }
}

// One output channel of a number of input channels known to the compiler.
template <int channels, typename T>
void mix_row(const T* __restrict x, const T* __restrict weight, std::int64_t step, T* __restrict y, std::int64_t pixels,
             std::int64_t count) {
  T w[channels];
  for (int j = 0; j < channels; ++j) w[j] = weight[j * step];
  for (std::int64_t p = 0; p < count; ++p) y[p] = weighted_sum<channels - 1>(x + p, pixels, w);
}

// The same for any number: the chunk stays in L1 while the channels are added one by one, in the same order.
template <typename T>
void mix_row_any(const T* __restrict x, const T* __restrict weight, std::int64_t step, T* __restrict y,
                 std::int64_t channels, std::int64_t pixels, std::int64_t count) {
  for (std::int64_t p = 0; p < count; ++p) y[p] = weight[0] * x[p];
  for (std::int64_t j = 1; j < channels; ++j) {
    const T w = weight[j * step];
    const T* x_j = x + j * pixels;
    for (std::int64_t p = 0; p < count; ++p) y[p] = multiply_add(w, x_j[p], y[p]);
  }
}

// y[i, p] = sum_j weight[i * row_step + j * column_step] x[j, p] over one chunk.
template <typename T>
void mix(const T* x, const T* weight, T* y, std::int64_t channels, std::int64_t pixels, std::int64_t count,
         std::int64_t row_step, std::int64_t column_step) {
  for (std::int64_t i = 0; i < channels; ++i) {
    const T* row = weight + i * row_step;
    T* y_i = y + i * pixels;
    switch (channels) {
      case 2:
        mix_row<2>(x, row, column_step, y_i, pixels, count);
        break;
      case 3:
        mix_row<3>(x, row, column_step, y_i, pixels, count);
        break;
      case 4:
        mix_row<4>(x, row, column_step, y_i, pixels, count);
        break;
      default:
        mix_row_any(x, row, column_step, y_i, channels, pixels, count);
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
    const Chunk c = chunk_at(index, params.batch, params.pixels);
    for (std::int64_t sample = c.first_sample; sample < c.end_sample; ++sample) {
      mix(static_cast<const T*>(params.x.data) + sample * params.x.batch_stride + c.begin,
          static_cast<const T*>(params.weight.data),
          static_cast<T*>(params.y) + sample * params.channels * params.pixels + c.begin, params.channels,
          params.pixels, c.count, params.channels, 1);
    }
  }
}

template <typename T>
void backward(const ChannelMixBackwardParams& params, std::int64_t begin_chunk, std::int64_t end_chunk) {
  const std::int64_t channels = params.channels, pixels = params.pixels;
  for (std::int64_t index = begin_chunk; index < end_chunk; ++index) {
    const Chunk c = chunk_at(index, params.batch, pixels);
    double* partial = params.partial + index * channels * channels;
    for (std::int64_t i = 0; i < channels * channels; ++i) partial[i] = 0;
    for (std::int64_t sample = c.first_sample; sample < c.end_sample; ++sample) {
      const T* grad_y = static_cast<const T*>(params.grad_y.data) + sample * params.grad_y.batch_stride + c.begin;
      const T* x = static_cast<const T*>(params.x.data) + sample * params.x.batch_stride + c.begin;
      T* grad_x = static_cast<T*>(params.grad_x) + sample * channels * pixels + c.begin;
      mix(grad_y, static_cast<const T*>(params.weight.data), grad_x, channels, pixels, c.count, 1, channels);
      for (std::int64_t i = 0; i < channels; ++i) {
        for (std::int64_t j = 0; j < channels; ++j) {
          partial[i * channels + j] += dot(grad_y + i * pixels, x + j * pixels, c.count);
        }
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
