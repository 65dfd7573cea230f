// A float64 state as float32 input of a subnet, rounded to multiples of a step that each sample has of its own.
#pragma once
#include <cstdint>

#include "ivan_fast/scalar.h"
#include "ivan_fast/types.h"

namespace ivan_fast {

// float32(step round(x / step)): rounds to integers, to even at a half, by adding 1.5 * 2^52 and taking it away again.
IVAN_HD float rounded_to(double x, double step) {
  constexpr double kToIntegers = 6755399441055744.0;
  const double whole = x / step + kToIntegers;
  return static_cast<float>((whole - kToIntegers) * step);
}

struct RoundStateParams {
  std::int64_t batch;             // N
  std::int64_t inner;             // elements of a sample
  Input x;                        // [N, inner], float64
  const double* steps = nullptr;  // [N], contiguous
  float* out = nullptr;           // [N, inner], contiguous
};

namespace cpu {
// Elements begin..end of the N * inner, so that the caller can share them out among threads.
void round_state(const RoundStateParams& params, std::int64_t begin, std::int64_t end);
}  // namespace cpu

namespace cuda {
// On the current device, on `stream` (a cudaStream_t).
void round_state(const RoundStateParams& params, void* stream);
}  // namespace cuda

}  // namespace ivan_fast
