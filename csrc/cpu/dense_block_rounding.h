// Rounding of a value to bfloat16 or float16 precision, to nearest even, kept in its own type.
#pragma once

#include <cstdint>
#include <cstring>

#include "dense_block_plan.h"

namespace ivan_fast::cpu::dense {

// static: every including file, whatever its instruction set, keeps its own copy.
static inline float round_to_bfloat16(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return v;  // NaN
  bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  std::memcpy(&v, &bits, 4);
  return v;
}

static inline float round_to_float16(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  const uint32_t sign = bits & 0x80000000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return v;  // NaN
  if (bits >= 0x477ff000u) {         // 65520 and above round to infinity
    bits = 0x7f800000u;
  } else if (bits >= 0x38800000u) {  // normal: 10 bits of fraction
    bits = (bits + 0x0fffu + ((bits >> 13) & 1u)) & 0xffffe000u;
  } else {  // subnormal: multiples of 2^-24, by adding and subtracting 0.5
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    volatile float shifted = magnitude + 0.5f;  // one unit in the last place of 0.5 is 2^-24
    magnitude = shifted - 0.5f;
    std::memcpy(&bits, &magnitude, 4);
  }
  bits |= sign;
  std::memcpy(&v, &bits, 4);
  return v;
}

template <typename T>
static inline void round_values(T* values, int64_t count, Rounding rounding) {
  if (rounding == Rounding::kBFloat16)
    for (int64_t i = 0; i < count; ++i) values[i] = T(round_to_bfloat16(float(values[i])));
  if (rounding == Rounding::kFloat16)
    for (int64_t i = 0; i < count; ++i) values[i] = T(round_to_float16(float(values[i])));
}

}  // namespace ivan_fast::cpu::dense
