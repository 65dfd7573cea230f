// Shared by the CUDA kernels: error checks, launch sizes, 16-byte accesses.
#pragma once
#include "portable.cuh"

#include <cstdint>
#include <stdexcept>
#include <string>

#include "ivan_fast/types.h"

namespace ivan_fast::cuda {

constexpr int kThreads = 256;

inline void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("ivan_fast: CUDA kernel ") + kernel + ": " + cudaGetErrorString(error));
  }
}

// Blocks for `items` in a grid-stride loop: enough to fill any device, few enough for any grid.
inline unsigned blocks_for(std::int64_t items, std::int64_t limit = 1 << 16) {
  const std::int64_t blocks = (items + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < limit ? blocks : limit);
}

// kWidth neighbouring elements that move in one access.
template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T v[kWidth];
};

template <typename T>
constexpr int kPackWidth = 16 / sizeof(T);

inline bool aligned16(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; }

// Whether every sample of the input starts on 16 bytes (absent inputs do).
inline bool aligned16(const Input& input, std::int64_t batch, std::size_t element_size) {
  return aligned16(input.data) &&
         (batch <= 1 || input.batch_stride * static_cast<std::int64_t>(element_size) % 16 == 0);
}

}  // namespace ivan_fast::cuda
