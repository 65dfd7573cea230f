// __half for the emulation: storage and conversions, rounding to nearest even as the device does.
#pragma once
#include <cstdint>

#include "cuda_runtime.h"

namespace cuda_emulation {
std::uint16_t to_half(float value);
float from_half(std::uint16_t bits);
}  // namespace cuda_emulation

struct __half_raw {
  unsigned short x;
};
struct __half {
  std::uint16_t bits;
  __half() = default;
  __half(__half_raw raw) : bits(raw.x) {}
  __half(float value) : bits(cuda_emulation::to_half(value)) {}
  operator float() const { return cuda_emulation::from_half(bits); }
};
struct alignas(4) __half2 {
  __half x, y;
};
using half = __half;
using half2 = __half2;

inline __half __float2half(float value) { return __half(value); }
inline __half __float2half_rn(float value) { return __half(value); }
inline float __half2float(__half value) { return value; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline float2 __half22float2(__half2 value) { return {value.x, value.y}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }
