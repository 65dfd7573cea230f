// What differs between a GPU and the emulation on the CPU that the tests compile these files for.
#pragma once

#ifdef IVAN_EMU
#include "cuda_emu.h"
#else
#include <cuda_runtime.h>

#define IVAN_LAUNCH(kernel, grid, block, shared, stream, ...) \
  kernel<<<(grid), (block), (shared), static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
// Dynamic shared memory as an array of T.
#define IVAN_DYN_SMEM(T, name)                                  \
  extern __shared__ __align__(16) unsigned char shared_bytes[]; \
  T* name = reinterpret_cast<T*>(shared_bytes)
#endif
