// The parts of CUDA C++ and of its runtime that csrc/cuda uses, for g++: kernels run on the CPU, one block after the
// other, each CUDA thread as a fiber (emulator.cpp). This header stands in for NVIDIA's of the same name.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static  // one block runs at a time; the race check refuses what an earlier block left there
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __grid_constant__

// --- vector types -------------------------------------------------------------------------------------------------

#define CUDA_EMULATION_VECTORS(type, name, align2, align4)                    \
  struct alignas(align2) name##2 { type x, y; };                              \
  struct name##3 { type x, y, z; };                                           \
  struct alignas(align4) name##4 { type x, y, z, w; };                        \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }            \
  inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; } \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
CUDA_EMULATION_VECTORS(float, float, 8, 16)
CUDA_EMULATION_VECTORS(double, double, 16, 16)
CUDA_EMULATION_VECTORS(int, int, 8, 16)
CUDA_EMULATION_VECTORS(unsigned, uint, 8, 16)
#undef CUDA_EMULATION_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
};

// --- what a thread sees -------------------------------------------------------------------------------------------

namespace cuda_emulation {

// Of the running thread. All fibers share one OS thread, so the scheduler sets these as it switches.
struct BuiltIn {
  uint3 thread, block;
  dim3 block_size, grid_size;
};
extern BuiltIn built_in;

void* dynamic_shared();  // of the running block: filled with 0xff (NaN in every floating-point type)
int lane();

// Ends the launch with this message (printf's notation); it returns as the error of the launch.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void block_barrier();
int block_sum(int value);

// Waits for all lanes of the mask; the last one to arrive runs combine(mask, in, out) for all of them, where in[l] and
// out[l] are what lane l passed (null for lanes outside the mask and lanes that have ended).
using Combine = void (*)(unsigned mask, const void* const* in, void* const* out);
void warp_collective(const char* operation, unsigned mask, const void* in, void* out, Combine combine);

struct Shuffled {
  std::uint64_t value;
  int source;
};
void shuffle(unsigned mask, const Shuffled& in, std::uint64_t& out);
unsigned ballot(unsigned mask, bool predicate);

template <typename T>
T shuffled(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  Shuffled in{0, source};
  std::uint64_t out;
  std::memcpy(&in.value, &value, sizeof(T));
  shuffle(mask, in, out);
  std::memcpy(&value, &out, sizeof(T));
  return value;
}

}  // namespace cuda_emulation

inline const uint3& threadIdx = cuda_emulation::built_in.thread;
inline const uint3& blockIdx = cuda_emulation::built_in.block;
inline const dim3& blockDim = cuda_emulation::built_in.block_size;
inline const dim3& gridDim = cuda_emulation::built_in.grid_size;
constexpr int warpSize = 32;

inline void __syncthreads() { cuda_emulation::block_barrier(); }
inline int __syncthreads_count(int predicate) { return cuda_emulation::block_sum(predicate != 0); }
inline int __syncthreads_or(int predicate) { return cuda_emulation::block_sum(predicate != 0) != 0; }
inline void __syncwarp(unsigned mask = ~0u) {
  cuda_emulation::warp_collective("__syncwarp", mask, nullptr, nullptr, nullptr);
}
inline void __threadfence_block() {}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return cuda_emulation::shuffled(mask, value, (cuda_emulation::lane() & ~(width - 1)) + (source & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
  const int own = cuda_emulation::lane(), source = own ^ with;
  return cuda_emulation::shuffled(mask, value, source < (own | (width - 1)) + 1 ? source : own);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const int own = cuda_emulation::lane(), source = own + static_cast<int>(by);
  return cuda_emulation::shuffled(mask, value, source <= (own | (width - 1)) ? source : own);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const int own = cuda_emulation::lane(), source = own - static_cast<int>(by);
  return cuda_emulation::shuffled(mask, value, source >= (own & ~(width - 1)) ? source : own);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) { return cuda_emulation::ballot(mask, predicate != 0); }
inline int __any_sync(unsigned mask, int predicate) { return cuda_emulation::ballot(mask, predicate != 0) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return cuda_emulation::ballot(mask, predicate == 0) == 0; }

[[noreturn]] inline void __trap() { cuda_emulation::fail("__trap()"); }

template <typename T>
T __ldg(const T* pointer) {
  return *pointer;
}
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline int __float_as_int(float value) { return static_cast<int>(__float_as_uint(value)); }
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
inline int min(int a, int b) { return b < a ? b : a; }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
inline long min(long a, long b) { return b < a ? b : a; }
inline long max(long a, long b) { return a < b ? b : a; }

// --- the runtime --------------------------------------------------------------------------------------------------

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};
using cudaStream_t = struct CUstream_st*;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
struct cudaFuncAttributes {
  int ptxVersion;  // the other members are not used
};
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaMemsetAsync(void* to, int byte, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);

namespace cuda_emulation {
cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t occupancy(int* blocks, int threads, std::size_t dynamic_bytes);
cudaError_t launch(const void* kernel, const cudaLaunchConfig_t& config, const std::function<void()>& body);
}  // namespace cuda_emulation

template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute, int value) {
  return cuda_emulation::set_attribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

template <typename... Parameters>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*)(Parameters...), int threads,
                                                          std::size_t dynamic_bytes) {
  return cuda_emulation::occupancy(blocks, threads, dynamic_bytes);
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const std::tuple<Parameters...> held(arguments...);
  return cuda_emulation::launch(reinterpret_cast<const void*>(kernel), *config,
                                [kernel, &held] { std::apply(kernel, held); });
}
