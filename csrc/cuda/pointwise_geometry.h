// How the pointwise CUDA kernels share out their work: plain functions of sizes and addresses, tested as such.
//
// The elements of a sample are items: packs of 16 bytes, then the few elements before the first and after the last
// 16-byte boundary. A thread takes items and samples in strides of the grid, so every size fits every grid.
#pragma once
#include <cstdint>
#include <initializer_list>

#include "ivan_fast/types.h"

#if defined(__CUDACC__)
#define IVAN_HOST_DEVICE __host__ __device__
#else
#define IVAN_HOST_DEVICE
#endif

namespace ivan_fast::cuda {

constexpr int kPointwiseThreads = 256;
constexpr std::int64_t kMaxGridX = 2147483647, kMaxGridY = 65535;  // limits of every device
// Blocks of channel_mix_backward, each of which leaves one partial sum of grad_weight: enough to fill any device, and
// the same on every device, so that the bits are too.
constexpr std::int64_t kMixBackwardBlocks = 2048;

struct PointwiseLaunch {
  std::uint32_t grid_x, grid_y;    // over items, over samples
  std::uint32_t block_x, block_y;  // kPointwiseThreads threads in all
};

// For `samples` samples of at most `items` items, both at least 1.
inline PointwiseLaunch pointwise_launch(std::int64_t samples, std::int64_t items, std::int64_t max_blocks = kMaxGridX) {
  const auto smaller = [](std::int64_t a, std::int64_t b) { return a < b ? a : b; };
  std::int64_t block_x = 1;
  while (block_x < kPointwiseThreads && block_x < items) block_x *= 2;
  const std::int64_t block_y = kPointwiseThreads / block_x;
  const std::int64_t grid_x = smaller((items + block_x - 1) / block_x, smaller(max_blocks, kMaxGridX));
  const std::int64_t rows = max_blocks / grid_x;
  const std::int64_t grid_y = smaller((samples + block_y - 1) / block_y, smaller(rows < 1 ? 1 : rows, kMaxGridY));
  return {static_cast<std::uint32_t>(grid_x), static_cast<std::uint32_t>(grid_y), static_cast<std::uint32_t>(block_x),
          static_cast<std::uint32_t>(block_y)};
}

// Blocks of a launch, at least 1.
inline std::int64_t block_count(const PointwiseLaunch& l) { return std::int64_t(l.grid_x) * l.grid_y; }

// The items of one sample of `length` elements: `packs` of `width` elements from element `head` on, then the others.
struct Span {
  std::int64_t head, packs, items;

  // The element of an item that is no pack.
  IVAN_HOST_DEVICE std::int64_t single(std::int64_t item, int width) const {
    const std::int64_t index = item - packs;
    return index < head ? index : index + packs * width;
  }
};

// `address` is that of the sample's first element, a multiple of element_size.
IVAN_HOST_DEVICE inline Span span_of(std::uintptr_t address, std::int64_t length, int element_size, int width) {
  const std::int64_t past = static_cast<std::int64_t>(address / static_cast<unsigned>(element_size)) & (width - 1);
  std::int64_t head = past == 0 ? 0 : width - past;
  if (head > length) head = length;
  const std::int64_t packs = (length - head) / width;
  return {head, packs, packs + (length - packs * width)};
}

// The most items that a sample of `length` elements has, wherever it begins.
inline std::int64_t most_items(std::int64_t length, int width) {
  const std::int64_t packs = length < width ? 0 : (length - (width - 1)) / width;  // with the longest head
  return packs + (length - packs * width);
}

// An operand of a pointwise op: where its samples begin. Absent ones have a null address.
struct Operand {
  std::uintptr_t address;
  std::int64_t stride;  // elements between samples
};

inline Operand operand(const Input& input) {
  return {reinterpret_cast<std::uintptr_t>(input.data), input.batch_stride};
}
inline Operand operand(const void* data, std::int64_t stride) {
  return {reinterpret_cast<std::uintptr_t>(data), stride};
}

// Whether all operands lie one sample after the other: then they are one long sample.
inline bool joins(std::initializer_list<Operand> operands, std::int64_t batch, std::int64_t length) {
  for (const Operand& o : operands) {
    if (o.address != 0 && batch > 1 && o.stride != length) return false;
  }
  return true;
}

// Whether the 16-byte boundaries of all operands fall on the same elements, in every sample.
inline bool aligned_alike(std::initializer_list<Operand> operands, std::int64_t batch, int element_size) {
  const Operand* first = nullptr;
  for (const Operand& o : operands) {
    if (o.address == 0) continue;
    if (first == nullptr) first = &o;
    if (o.address % 16 != first->address % 16) return false;
    if (batch > 1 && (o.stride - first->stride) * element_size % 16 != 0) return false;
  }
  return true;
}

// The same of a float64 input and a float32 output, for packs of four elements that begin where the output's 16 bytes
// do.
inline bool boundaries_meet(const Operand& input, const Operand& output, std::int64_t batch) {
  if ((input.address / 8 - output.address / 4) % 2 != 0) return false;
  return batch <= 1 || (input.stride - output.stride) % 2 == 0;
}

// Partial sums of grad_weight that channel_mix_backward may leave, whatever the alignment: never more than
// kMixBackwardBlocks, and few where there is little to do.
inline std::int64_t mix_backward_partials(std::int64_t batch, std::int64_t pixels) {
  if (batch * pixels == 0) return 0;
  std::int64_t most = 0;
  for (const int width : {1, 2, 4}) {
    const std::int64_t blocks = block_count(pointwise_launch(batch, most_items(pixels, width), kMixBackwardBlocks));
    if (blocks > most) most = blocks;
  }
  return most;
}

}  // namespace ivan_fast::cuda
