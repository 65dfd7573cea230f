// The loop of the pointwise kernels, and their accesses.
#pragma once
#include "common.cuh"
#include "pointwise_geometry.h"

namespace ivan_fast::cuda {

template <int kWidth, typename T>
__device__ __forceinline__ Pack<T, kWidth> load(const T* from) {
  return *reinterpret_cast<const Pack<T, kWidth>*>(from);
}

template <int kWidth, typename T>
__device__ __forceinline__ void store(T* to, const Pack<T, kWidth>& pack) {
  *reinterpret_cast<Pack<T, kWidth>*>(to) = pack;
}

// Calls work.template at<width>(sample, element) for every element of every sample once, with width kWidth or 1.
// `reference` is an operand whose boundaries all operands share (aligned_alike), `stride` apart from sample to sample;
// with kWidth 1 it does not matter. For a launch of pointwise_launch().
template <int kWidth, typename T, typename Work>
__device__ __forceinline__ void for_each_item(Work& work, std::int64_t samples, std::int64_t length, const T* reference,
                                              std::int64_t stride) {
  const std::int64_t sample_step = std::int64_t(gridDim.y) * blockDim.y,
                     item_step = std::int64_t(gridDim.x) * blockDim.x;
  const std::int64_t first_item = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  for (std::int64_t sample = std::int64_t(blockIdx.y) * blockDim.y + threadIdx.y; sample < samples;
       sample += sample_step) {
    if constexpr (kWidth == 1) {
      for (std::int64_t item = first_item; item < length; item += item_step) work.template at<1>(sample, item);
    } else {
      const auto address = reinterpret_cast<std::uintptr_t>(reference + sample * stride);
      const Span span = span_of(address, length, sizeof(T), kWidth);
      for (std::int64_t item = first_item; item < span.items; item += item_step) {
        if (item < span.packs) {
          work.template at<kWidth>(sample, span.head + item * kWidth);
        } else {
          work.template at<1>(sample, span.single(item, kWidth));
        }
      }
    }
  }
}

}  // namespace ivan_fast::cuda
