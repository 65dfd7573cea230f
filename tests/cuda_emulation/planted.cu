// Kernels with one planted fault each (and one without), to show that the checks bite: emulated_planted runs them.
#include <string>

#include "common.cuh"
#include "exports.h"
#include "tensor_core.cuh"

namespace ivan_fast::cuda {
namespace {

enum Fault {
  kNone,
  kMissingBarrier,   // between writing a tile and reading it
  kReusedTooEarly,   // the tile is overwritten while others still read it
  kSharedOverrun,    // one element past the dynamic shared memory
  kGlobalOverrun,    // one element past the output
  kDivergent,        // half of the threads skip a barrier
  kUninitialised,    // reads shared memory that nobody wrote
  kMissingWait,      // cp.async without wait
  kWaitWithoutSync,  // cp.async waited for, but no barrier before other threads read
  kTwoBlocksWrite,   // every block writes the same output
  kWarpRace,         // lanes exchange through shared memory without __syncwarp
  kMisaligned,       // a 16-byte access to an address that is not aligned to it
  kPartialWarp,      // a shuffle with the full mask that some lanes skip
};

// y[i] = x[i] + x[reverse of i within its tile of 64] + 1, by way of shared memory, in two rounds.
__global__ void reverse_kernel(const float* x, float* y, int count, int fault) {
  float* tile = dynamic_shared<float>();
  __shared__ float plain[64];
  const int i = threadIdx.x;
  for (int round = 0; round < 2; ++round) {
    const int at = (blockIdx.x * 2 + round) * 64 + i;
    if (fault == kMissingWait || fault == kWaitWithoutSync) {
      if (at < count) cp_async<4>(tile + i, x + at);
      cp_async_commit();
      if (fault != kMissingWait) cp_async_wait<0>();
    } else if (at < count && !(fault == kUninitialised && i == 5)) {
      tile[i] = x[at];
    }
    if (!(fault == kMissingBarrier || fault == kWaitWithoutSync) && !(fault == kDivergent && i >= 32)) __syncthreads();
    if (at < count) y[fault == kTwoBlocksWrite ? i : at] = x[at] + tile[63 - i] + 1;
    if (fault != kReusedTooEarly) __syncthreads();
  }
  if (fault == kSharedOverrun && i == 63) tile[64] = 1;
  if (fault == kGlobalOverrun && i == 0 && blockIdx.x == 0) y[count] = 1;
  if (blockIdx.x != 0) return;
  if (fault == kWarpRace) {
    plain[i] = x[i];
    if (i % 32 == 0) y[i] = plain[i + 1];
  }
  if (fault == kMisaligned) y[i] = reinterpret_cast<const float4*>(x + 1)->x;
  if (fault == kPartialWarp && i % 2 == 0) y[i] = __shfl_xor_sync(~0u, x[i], 1);
}

}  // namespace
}  // namespace ivan_fast::cuda

// count is a multiple of 128, so that no tile is partly filled.
EMULATION_EXPORT const char* emulated_planted(const float* x, float* y, std::int64_t count, std::int64_t fault) {
  using namespace ivan_fast::cuda;
  return guarded([&] {
    launch("planted", reverse_kernel, dim3(static_cast<unsigned>(count / 128)), dim3(64), 64 * sizeof(float), nullptr,
           x, y, static_cast<int>(count), static_cast<int>(fault));
  });
}

// One product of each kind from operands in row-major A [16, k], B [k, 8]; d is [16, 8].
namespace ivan_fast::cuda {
namespace {

enum Product { kBf16, kF16, kF16x8, kTf32 };

// Operands of 16 bits by ldmatrix: A as it lies, B (row-major, so transposed on the way).
__global__ void product_kernel(int kind, const void* a_global, const void* b_global, float* d) {
  std::uint16_t* shared = dynamic_shared<std::uint16_t>();
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  float sum[4] = {0, 0, 0, 0};
  if (kind == kTf32) {
    const float* a = static_cast<const float*>(a_global);
    const float* b = static_cast<const float*>(b_global);
    const std::uint32_t fa[4] = {to_tf32(a[g * 8 + t]), to_tf32(a[(g + 8) * 8 + t]), to_tf32(a[g * 8 + t + 4]),
                                 to_tf32(a[(g + 8) * 8 + t + 4])};
    const std::uint32_t fb[2] = {to_tf32(b[t * 8 + g]), to_tf32(b[(t + 4) * 8 + g])};
    mma_tf32_16x8x8(sum, fa, fb);
  } else {
    const int depth = kind == kF16x8 ? 8 : 16;
    std::uint16_t *a = shared, *b = shared + 16 * depth;
    for (int i = lane; i < 2 * depth; i += 32)
      cp_async<16>(a + 8 * i, static_cast<const std::uint16_t*>(a_global) + 8 * i);
    for (int i = lane; i < depth; i += 32) cp_async<16>(b + 8 * i, static_cast<const std::uint16_t*>(b_global) + 8 * i);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    if (depth == 16) {
      std::uint32_t fa[4], fb[2];
      ldmatrix<4>(fa, a + lane % 16 * 16 + lane / 16 * 8);
      ldmatrix<2, true>(fb, b + lane % 16 * 8);
      if (kind == kBf16) {
        mma_bf16_16x8x16(sum, fa, fb);
      } else {
        mma_f16_16x8x16(sum, fa, fb);
      }
    } else {
      std::uint32_t fa[2], fb[1];
      ldmatrix<2>(fa, a + lane % 16 * 8);
      ldmatrix<1, true>(fb, b + lane % 8 * 8);
      mma_f16_16x8x8(sum, fa, fb);
    }
  }
  for (int i = 0; i < 4; ++i) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sum[i];
}

}  // namespace
}  // namespace ivan_fast::cuda

EMULATION_EXPORT const char* emulated_product(std::int64_t kind, const void* a, const void* b, float* d) {
  using namespace ivan_fast::cuda;
  return guarded([&] { launch("product", product_kernel, 1, 32, 768, nullptr, static_cast<int>(kind), a, b, d); });
}

// A bare launch, for what the device refuses.
namespace ivan_fast::cuda {
namespace {
__global__ void nothing_kernel() {}
}  // namespace
}  // namespace ivan_fast::cuda

EMULATION_EXPORT const char* emulated_launch(std::int64_t x, std::int64_t y, std::int64_t z, std::int64_t threads,
                                             std::int64_t shared_bytes) {
  using namespace ivan_fast::cuda;
  return guarded([&] {
    launch("nothing", nothing_kernel,
           dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z)),
           dim3(static_cast<unsigned>(threads)), static_cast<std::size_t>(shared_bytes), nullptr);
  });
}
