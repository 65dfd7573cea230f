// __nv_bfloat16 for the emulation: storage and conversions, rounding to nearest even as the device does.
#pragma once
#include <cstdint>

#include "cuda_runtime.h"

namespace cuda_emulation {
std::uint16_t to_bfloat16(float value);
inline float from_bfloat16(std::uint16_t bits) { return __uint_as_float(static_cast<unsigned>(bits) << 16); }
}  // namespace cuda_emulation

struct __nv_bfloat16_raw {
  unsigned short x;
};
struct __nv_bfloat16 {
  std::uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(__nv_bfloat16_raw raw) : bits(raw.x) {}
  __nv_bfloat16(float value) : bits(cuda_emulation::to_bfloat16(value)) {}
  operator float() const { return cuda_emulation::from_bfloat16(bits); }
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline __nv_bfloat16 __float2bfloat16(float value) { return __nv_bfloat16(value); }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return __nv_bfloat16(value); }
inline float __bfloat162float(__nv_bfloat16 value) { return value; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 value) { return {value.x, value.y}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return __nv_bfloat16_raw{bits}; }
