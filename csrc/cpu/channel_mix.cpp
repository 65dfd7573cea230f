#include "ivan_fast/channel_mix.h"

#include "isa.h"

namespace ivan_fast::cpu {

IVAN_ISA_DECLARE(void channel_mix(const ChannelMixParams& params, std::int64_t begin_chunk, std::int64_t end_chunk);
                 void channel_mix_backward(const ChannelMixBackwardParams& params, std::int64_t begin_chunk,
                                           std::int64_t end_chunk))

void channel_mix(const ChannelMixParams& params, std::int64_t begin_chunk, std::int64_t end_chunk) {
  IVAN_ISA_CALL(channel_mix(params, begin_chunk, end_chunk));
}

void channel_mix_backward(const ChannelMixBackwardParams& params, std::int64_t begin_chunk, std::int64_t end_chunk) {
  IVAN_ISA_CALL(channel_mix_backward(params, begin_chunk, end_chunk));
}

void channel_mix_reduce(const ChannelMixBackwardParams& params) {
  const std::int64_t size = params.channels * params.channels;
  const std::int64_t chunks = mix_chunks(params.batch, params.pixels);
  for (std::int64_t i = 0; i < size; ++i) {
    double sum = 0;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) sum += params.partial[chunk * size + i];
    if (params.dtype == DType::kFloat64) {
      static_cast<double*>(params.grad_weight)[i] = sum;
    } else {
      static_cast<float*>(params.grad_weight)[i] = static_cast<float>(sum);
    }
  }
}

}  // namespace ivan_fast::cpu
