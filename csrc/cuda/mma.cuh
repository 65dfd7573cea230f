// tensor_core.cuh's instructions by the type of the operands.
//
// A step is 32 bytes of channels: 16 of 16 bits, or 8 of TF32, which move alike: four 8 x 16-byte matrices of pixels
// by channels are the fragment of 16 pixels by a step, whatever the type.
#pragma once

#include "dense_block_slices.cuh"
#include "tensor_core.cuh"

namespace ivan_fast::cuda {

// D (16 x 8) += A (16 x step) B (step x 8).
template <typename S>
__device__ __forceinline__ void multiply(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<S, __nv_bfloat16>) {
    mma_bf16_16x8x16(d, a, b);
  } else if constexpr (std::is_same_v<S, Tf32>) {
    mma_tf32_16x8x8(d, a, b);
  } else {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    const std::uint32_t first_a[2] = {a[0], a[1]}, first_b[1] = {b[0]};
    const std::uint32_t second_a[2] = {a[2], a[3]}, second_b[1] = {b[1]};
    mma_f16_16x8x8(d, first_a, first_b);
    mma_f16_16x8x8(d, second_a, second_b);
#else
    mma_f16_16x8x16(d, a, b);
#endif
  }
}

// Pixels of a slice in shared memory, one after the other: which 16-byte chunk of pixel p holds chunk 0; the others
// follow by exclusive or. A chunk of 8 neighbours meets in no bank, and nothing is padded: shared memory decides how
// many blocks a multiprocessor holds.
template <typename S>
__device__ __forceinline__ int swizzle(int p) {
  return sizeof(S) == 2 ? p / 4 % 2 : p / 2 % 4;
}

// 16 bytes to shared memory, or zeros (`from` is then not read, but must be an address). Done after cp_async_wait.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool zero) {
  cp_async<16>(to, from, zero ? 0 : 16);
}

}  // namespace ivan_fast::cuda
