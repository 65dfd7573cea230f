// Shared by the CUDA kernels: launches with error checks, launch sizes, dynamic shared memory, packs.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "ivan_fast/types.h"

namespace ivan_fast::cuda {

constexpr int kThreads = 256;

inline void check(cudaError_t error, const char* op) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // also forget it, or the next user of the device would be blamed
  throw std::runtime_error(std::string("ivan_fast: CUDA kernel of ") + op + ": " + cudaGetErrorString(error));
}

// Lets `kernel`, which has no other shared memory, use all that a block may on the current device. Always all: the
// limit is one of the process, and a thread that lowered it to its own need would fail another's launch.
template <typename Kernel>
void allow_all_shared(const char* op, Kernel* kernel) {
  int device = 0, most = 0;
  check(cudaGetDevice(&device), op);
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), op);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), op);
}

// Launches `kernel` for the op of that name. A function rather than <<<>>>, so that the sources are plain C++ for the
// CPU emulation of the tests too.
template <typename... Parameters, typename... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
            cudaStream_t stream, const Arguments&... arguments) {
  if (shared_bytes > (48u << 10)) allow_all_shared(op, kernel);  // more must be asked for
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), op);
}

// The block's dynamic shared memory. It starts on 128 bytes and holds what the launch asked for.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(IVAN_EMU)
  return static_cast<T*>(cuda_emulation::dynamic_shared());
#else
  extern __shared__ __align__(128) unsigned char ivan_fast_dynamic_shared[];
  return reinterpret_cast<T*>(ivan_fast_dynamic_shared);
#endif
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

}  // namespace ivan_fast::cuda
