// Channel mix (invertible 1x1 convolution): y[n, i, p] = sum_j weight[i, j] x[n, j, p], with its two gradients.
#pragma once
#include <cstdint>

#include "ivan_fast/types.h"

namespace ivan_fast {

// Pixels of one partial sum of grad_weight on the CPU. Fixed: the result does not depend on the number of threads.
constexpr std::int64_t kMixChunk = 1024;

struct ChannelMixParams {
  DType dtype;
  std::int64_t batch;     // N
  std::int64_t channels;  // C
  std::int64_t pixels;    // P = H * W
  Input x;                // [N, C, P]
  Input weight;           // [C, C]
  void* y = nullptr;      // [N, C, P], contiguous
};

struct ChannelMixBackwardParams {
  DType dtype;
  std::int64_t batch, channels, pixels;
  Input grad_y;                 // [N, C, P]
  Input x;                      // [N, C, P]
  Input weight;                 // [C, C]
  void* grad_x = nullptr;       // [N, C, P], contiguous
  void* grad_weight = nullptr;  // [C, C], contiguous
  double* partial = nullptr;    // workspace [P, C, C] with P of mix_chunks, or of cuda::channel_mix_partials
};

// Whole samples of a chunk: 1, or as many as kMixChunk pixels hold where samples are small.
inline std::int64_t mix_chunk_samples(std::int64_t pixels) {
  return pixels == 0 || pixels > kMixChunk ? 1 : kMixChunk / pixels;
}

// Chunks of all samples: the units in which work is shared out.
inline std::int64_t mix_chunks(std::int64_t batch, std::int64_t pixels) {
  const std::int64_t samples = mix_chunk_samples(pixels);
  return (batch + samples - 1) / samples * ((pixels + kMixChunk - 1) / kMixChunk);
}

namespace cpu {
void channel_mix(const ChannelMixParams& params, std::int64_t begin_chunk, std::int64_t end_chunk);
// First stage: grad_x and the partial sums of the given chunks; second stage: grad_weight from all partial sums.
void channel_mix_backward(const ChannelMixBackwardParams& params, std::int64_t begin_chunk, std::int64_t end_chunk);
void channel_mix_reduce(const ChannelMixBackwardParams& params);
}  // namespace cpu

namespace cuda {
// On the current device, on `stream` (a cudaStream_t).
void channel_mix(const ChannelMixParams& params, void* stream);
void channel_mix_backward(const ChannelMixBackwardParams& params, void* stream);
// Partial sums that channel_mix_backward needs room for.
std::int64_t channel_mix_partials(std::int64_t batch, std::int64_t channels, std::int64_t pixels);
}  // namespace cuda

}  // namespace ivan_fast
