// Tensor core instructions and asynchronous copies, with what the CPU emulation of the tests does instead.
//
// A step is 32 bytes of channels: 16 of 16 bits, or 8 of TF32. Fragments of D[16 x 8] += A[16 x step] B[step x 8], with
// g = lane / 4, t = lane % 4 and w the channels of a register (2, or 1):
//   a[0..3]  rows g, g + 8, g, g + 8; channels w t .., twice, then half a step + w t .., twice
//   b[0..1]  column g; channels w t .., then half a step + w t ..
//   d[0..3]  row g columns 2 t, 2 t + 1, then row g + 8
#pragma once

#include "dense_block_slices.cuh"

namespace ivan_fast::cuda {

#ifndef IVAN_EMU

template <typename S>
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned* b) {
#define IVAN_MMA(shape, types)                                                               \
  asm volatile("mma.sync.aligned." shape ".row.col." types                                   \
               " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                      \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                              \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#if __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<S, __nv_bfloat16>) {
    IVAN_MMA("m16n8k16", "f32.bf16.bf16.f32");
  } else if constexpr (std::is_same_v<S, __half>) {
    IVAN_MMA("m16n8k16", "f32.f16.f16.f32");
  } else {
    IVAN_MMA("m16n8k8", "f32.tf32.tf32.f32");
  }
#else
  if constexpr (std::is_same_v<S, __half>) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      asm volatile(
          "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  } else {
    __trap();  // the host does not choose this where there is no such instruction
  }
#endif
#undef IVAN_MMA
}

__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// Four 8 x 16-byte matrices: lane 8 i + r gives the address of row r of matrix i; r[i] of a lane is word t of row g.
__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same for elements of 16 bits, transposed: r[i] holds column g of rows 2 t and 2 t + 1.
__device__ __forceinline__ void load_transposed(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// 16 bytes to shared memory, or zeros (`from` is then not read, but must be an address). Done after wait_copies.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool zero) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(zero ? 0 : 16)
               : "memory");
#else
  *static_cast<uint4*>(to) = zero ? make_uint4(0, 0, 0, 0) : *static_cast<const uint4*>(from);
#endif
}

// Copies since the last commit become a group; wait until at most `pending` groups are not done.
__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int pending>
__device__ __forceinline__ void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

#else  // the emulation

// Every lane's value, to every lane.
template <typename V>
struct Exchange {
  V lane[32];
  explicit Exchange(const V& own) {
    static_assert(sizeof(V) <= 64);
    ivan_emu::Thread* t = ivan_emu::T();
    auto& slots = ivan_emu::B()->ex[t->warp];
    std::memcpy(&slots[t->lane * 8], &own, sizeof(V));
    ivan_emu::bar_warp();
    for (int i = 0; i < 32; ++i) std::memcpy(&lane[i], &slots[i * 8], sizeof(V));
    ivan_emu::bar_warp();
  }
};

template <typename S>
inline float channel_of(unsigned word, int part) {
  S value;
  std::memcpy(&value, reinterpret_cast<const char*>(&word) + part * sizeof(S), sizeof(S));
  return from_operand(value);
}

template <typename S>
inline void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned* b) {
  struct Registers {
    unsigned a[4], b[2];
  };
  const Exchange<Registers> all({{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  constexpr int kWide = 4 / sizeof(S);
  const int g = ivan_emu::T()->lane / 4, t = ivan_emu::T()->lane % 4;
  for (int i = 0; i < 4; ++i) {
    float sum = 0;
    for (int half = 0; half < 2; ++half)
      for (int lane = 0; lane < 4; ++lane)
        for (int part = 0; part < kWide; ++part)
          sum += channel_of<S>(all.lane[g * 4 + lane].a[2 * half + i / 2], part) *
                 channel_of<S>(all.lane[(2 * t + i % 2) * 4 + lane].b[half], part);
    d[i] += sum;
  }
}

inline void load_matrices(unsigned (&r)[4], const void* row) {
  const Exchange<const char*> rows(static_cast<const char*>(row));
  const int lane = ivan_emu::T()->lane;
  for (int i = 0; i < 4; ++i) std::memcpy(&r[i], rows.lane[8 * i + lane / 4] + lane % 4 * 4, 4);
}

inline void load_transposed(unsigned (&r)[4], const void* row) {
  const Exchange<const char*> rows(static_cast<const char*>(row));
  const int g = ivan_emu::T()->lane / 4, t = ivan_emu::T()->lane % 4;
  for (int i = 0; i < 4; ++i)
    for (int part = 0; part < 2; ++part)
      std::memcpy(reinterpret_cast<char*>(&r[i]) + 2 * part, rows.lane[8 * i + 2 * t + part] + 2 * g, 2);
}

inline void copy_async(void* to, const void* from, bool zero) {
  if (zero) {
    std::memset(to, 0, 16);
  } else {
    std::memcpy(to, from, 16);
  }
}
inline void commit_copies() {}
template <int pending>
inline void wait_copies() {}

#endif

}  // namespace ivan_fast::cuda
