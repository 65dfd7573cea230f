// Dense block on the CPU; compiled once for each instruction set (isa.h).
// Only the table of entry points leaves this file.
#include "dense_block_direct.h"
#include "dense_block_winograd_stream.h"
#include "dense_block_winograd_weights.h"

namespace ivan_fast::cpu::IVAN_ISA {
namespace {

// Winograd is for float: other types have no kernels for it, and the driver never asks.
template <typename T, typename F>
void with_stream(const dense::Job<T>& job, const dense::Tile& tile, bool backward, T* workspace, F&& run) {
  if constexpr (sizeof(T) == 4)
    if (job.winograd) {
      WinogradStream<T> stream(job, tile, backward, workspace);
      return run(stream);
    }
  DirectStream<T> stream(job, tile, backward, workspace);
  run(stream);
}

// Of a tile with a halo on both sides.
template <typename T>
size_t workspace_elements(const dense::Job<T>& job, int64_t columns, bool backward) {
  dense::Job<T> wide = job;
  const int64_t margin = (3 * dense::kMaxSources) * dense::kTile;
  wide.width = columns + 2 * margin;
  size_t elements = 0;
  with_stream(wide, dense::Tile{0, 0, 1, margin, margin + columns}, backward, static_cast<T*>(nullptr),
              [&](const auto& stream) { elements = stream.arena.used; });
  return elements;
}

template <typename T>
void forward_tile(const dense::Job<T>& job, const dense::Tile& tile, T* workspace) {
  with_stream(job, tile, false, workspace, [](auto& stream) { forward_stream(stream); });
}

template <typename T>
void backward_tile(const dense::Job<T>& job, const dense::Tile& tile, const dense::Accumulators<T>& sums,
                   T* workspace) {
  with_stream(job, tile, true, workspace, [&](auto& stream) { backward_stream(stream, sums); });
}

}  // namespace

const dense::KernelSet& dense_block_kernels() {
  static constexpr dense::KernelSet set = {
      {kLanes<float>, workspace_elements<float>, forward_tile<float>, backward_tile<float>},
      {kLanes<double>, workspace_elements<double>, forward_tile<double>, backward_tile<double>},
      {pack_winograd, reduce_winograd},
  };
  return set;
}

}  // namespace ivan_fast::cpu::IVAN_ISA
