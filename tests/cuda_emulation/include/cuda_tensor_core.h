// What csrc/cuda/tensor_core.cuh calls under the emulation, in place of PTX (tensor_core.cpp).
#pragma once
#include <cstdint>

namespace cuda_emulation {

void mma_bf16_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
void mma_f16_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
void mma_f16_16x8x8(float (&d)[4], const std::uint32_t (&a)[2], const std::uint32_t (&b)[1]);
void mma_tf32_16x8x8(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
std::uint32_t to_tf32(float value);
void ldmatrix(std::uint32_t* registers, int matrices, bool transposed, const void* row);
void cp_async(void* to, const void* from, int bytes, int valid);
void cp_async_commit();
void cp_async_wait(int groups);

}  // namespace cuda_emulation
