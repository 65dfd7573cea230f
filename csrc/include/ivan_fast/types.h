// Types shared by every kernel and by the layer that calls it.
#pragma once
#include <cstdint>

namespace ivan_fast {

enum class DType : int { kFloat32, kFloat64 };

// An input of N samples, each contiguous, `batch_stride` elements apart: a whole tensor or a slice of its channels.
struct Input {
  const void* data = nullptr;  // [N, ...]
  std::int64_t batch_stride = 0;
};

}  // namespace ivan_fast
