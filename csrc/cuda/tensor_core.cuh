// Tensor-core products, fragment loads and asynchronous copies, one function per PTX instruction (PTX ISA, "Warp-level
// matrix instructions"). Under the CPU emulation of the tests (IVAN_EMU) the same functions have the same meaning.
//
// Fragments, with g = lane / 4 and t = lane % 4; a register of 16-bit operands holds two neighbours, the first in its
// low half:
//   A 16x16   a[0] (g, 2t..)  a[1] (g+8, 2t..)  a[2] (g, 2t+8..)  a[3] (g+8, 2t+8..)       (row, column)
//   A 16x8    a[0] (g, 2t..)  a[1] (g+8, 2t..)
//   B 16x8    b[0] (2t.., g)  b[1] (2t+8.., g)                                             B 8x8: b[0]
//   tf32      a[0] (g, t)  a[1] (g+8, t)  a[2] (g, t+4)  a[3] (g+8, t+4)    b[0] (t, g)  b[1] (t+4, g)
//   D 16x8    d[0] (g, 2t)  d[1] (g, 2t+1)  d[2] (g+8, 2t)  d[3] (g+8, 2t+1)
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#if defined(IVAN_EMU)
#include "cuda_tensor_core.h"
#endif

namespace ivan_fast::cuda {

// Sums and products below: D (16x8, float) += A B.

// bfloat16 A (16x16), B (16x8); from sm_80.
__device__ __forceinline__ void mma_bf16_16x8x16(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2]) {
#if defined(IVAN_EMU)
  cuda_emulation::mma_bf16_16x8x16(d, a, b);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// float16 A (16x16), B (16x8); from sm_80.
__device__ __forceinline__ void mma_f16_16x8x16(float (&d)[4], const std::uint32_t (&a)[4],
                                                const std::uint32_t (&b)[2]) {
#if defined(IVAN_EMU)
  cuda_emulation::mma_f16_16x8x16(d, a, b);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// float16 A (16x8), B (8x8): sm_75's; later ones have it too.
__device__ __forceinline__ void mma_f16_16x8x8(float (&d)[4], const std::uint32_t (&a)[2],
                                               const std::uint32_t (&b)[1]) {
#if defined(IVAN_EMU)
  cuda_emulation::mma_f16_16x8x8(d, a, b);
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(b[0]));
#endif
}

// TF32 A (16x8), B (8x8): float bits, of which the hardware ignores the low 13 (round with to_tf32); from sm_80.
__device__ __forceinline__ void mma_tf32_16x8x8(float (&d)[4], const std::uint32_t (&a)[4],
                                                const std::uint32_t (&b)[2]) {
#if defined(IVAN_EMU)
  cuda_emulation::mma_tf32_16x8x8(d, a, b);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// The bits of `value` rounded to TF32, to nearest with ties away from zero; from sm_80.
__device__ __forceinline__ std::uint32_t to_tf32(float value) {
#if defined(IVAN_EMU)
  return cuda_emulation::to_tf32(value);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
#else
  __trap();
  return 0;
#endif
}

// ldmatrix: kMatrices (1, 2 or 4) matrices of 8x8 16-bit elements from shared memory. Lane 8m + r gives the address of
// row r of matrix m, 16 bytes aligned to 16; with 1 or 2 matrices the later lanes' addresses are ignored (they must be
// valid all the same). registers[m] then holds (g, 2t..) of matrix m, or with kTransposed its (2t.., g).
template <int kMatrices, bool kTransposed = false>
__device__ __forceinline__ void ldmatrix(std::uint32_t (&registers)[kMatrices], const void* row) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);
#if defined(IVAN_EMU)
  cuda_emulation::ldmatrix(registers, kMatrices, kTransposed, row);
#else
  const std::uint32_t address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kMatrices == 4 && kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kMatrices == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kMatrices == 2 && kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kMatrices == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(registers[0])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(registers[0]) : "r"(address) : "memory");
  }
#endif
}

// Starts copying kBytes (4, 8 or 16, both addresses aligned to it) from global to shared memory; only the first
// `valid` bytes (a multiple of 4) are read, zeros follow. sm_75, which has no such instruction, copies at once.
template <int kBytes>
__device__ __forceinline__ void cp_async(void* to_shared, const void* from_global, int valid = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#if defined(IVAN_EMU)
  cuda_emulation::cp_async(to_shared, from_global, kBytes, valid);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const std::uint32_t address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to_shared));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from_global), "r"(valid)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from_global), "n"(kBytes),
                 "r"(valid)
                 : "memory");
  }
#else
  struct alignas(kBytes) Bytes {
    std::uint32_t words[kBytes / 4];
  };
  if (valid == kBytes) {
    *static_cast<Bytes*>(to_shared) = *static_cast<const Bytes*>(from_global);
  } else {
    for (int i = 0; i < kBytes / 4; ++i) {
      const bool inside = 4 * i < valid;
      static_cast<std::uint32_t*>(to_shared)[i] = inside ? static_cast<const std::uint32_t*>(from_global)[i] : 0;
    }
  }
#endif
}

// Closes a group of the copies this thread has started.
__device__ __forceinline__ void cp_async_commit() {
#if defined(IVAN_EMU)
  cuda_emulation::cp_async_commit();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most kGroups of this thread's groups are unfinished. Other threads see the copies after a barrier.
template <int kGroups>
__device__ __forceinline__ void cp_async_wait() {
#if defined(IVAN_EMU)
  cuda_emulation::cp_async_wait(kGroups);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

}  // namespace ivan_fast::cuda
