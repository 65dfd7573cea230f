// What the parts of the dense block give each other: the device in use, and the calls on tensor cores.
#pragma once

#include "common.cuh"
#include "ivan_fast/dense_block_cuda.h"

namespace ivan_fast::cuda {

// float32 tensors with operands that are not exact, on devices that have them (dense_block.cu decides).
void tensor_core_forward(const DenseBlockParams& params, const DenseBlockOptions& options, void* workspace,
                         void* stream);
void tensor_core_backward(const DenseBlockBackwardParams& params, const DenseBlockOptions& options, void* workspace,
                          void* stream);

#ifdef IVAN_EMU
// The device that the emulation stands for; tests set it.
inline DenseBlockDevice emulated_device{80, 108, 166912};
inline DenseBlockDevice current_device() { return emulated_device; }
inline void set_to_zero(void* data, std::size_t bytes, void*) { std::memset(data, 0, bytes); }
template <typename Kernel>
void allow_shared_bytes(Kernel, int) {}
#else
inline void check_call(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("ivan_fast: ") + what + ": " + cudaGetErrorString(error));
}

inline DenseBlockDevice current_device() {
  int device = 0, major = 0, minor = 0;
  DenseBlockDevice found{};
  check_call(cudaGetDevice(&device), "no current CUDA device");
  const auto attribute = [device](int* value, cudaDeviceAttr which) {
    check_call(cudaDeviceGetAttribute(value, which, device), "attribute of the CUDA device");
  };
  attribute(&major, cudaDevAttrComputeCapabilityMajor);
  attribute(&minor, cudaDevAttrComputeCapabilityMinor);
  attribute(&found.multiprocessors, cudaDevAttrMultiProcessorCount);
  attribute(&found.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  found.capability = 10 * major + minor;
  return found;
}

inline void set_to_zero(void* data, std::size_t bytes, void* stream) {
  check_call(cudaMemsetAsync(data, 0, bytes, static_cast<cudaStream_t>(stream)), "cudaMemsetAsync");
}

// More dynamic shared memory than the 48 KiB that every kernel may use.
template <typename Kernel>
void allow_shared_bytes(Kernel kernel, int bytes) {
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory");
}
#endif

}  // namespace ivan_fast::cuda
