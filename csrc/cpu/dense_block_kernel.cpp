// Dense block on the CPU; compiled once for each instruction set (isa.h).
// Only the table of entry points leaves this file.
#include <vector>

#include "dense_block_direct.h"
#include "dense_block_winograd_stream.h"
#include "dense_block_winograd_weights.h"

namespace ivan_fast::cpu::IVAN_ISA {
namespace {

// Calls run(streams) with the streams of a worker's parts. Winograd is for float: other types have no kernels for it,
// and the driver never asks.
template <class Stream, typename T, typename F>
void with_streams(const dense::Job<T>& job, const dense::Tile& tile, const dense::Share& share, bool backward,
                  T* workspace, F&& run) {
  if (share.last - share.first == 1) {  // others may be waiting: nothing here may throw
    Stream stream(job, tile, backward, share.first, share.parts, workspace);
    return run(Streams<Stream>{&stream, &stream + 1, share.team});
  }
  std::vector<Stream> all;
  all.reserve(size_t(share.last - share.first));
  for (int i = share.first; i < share.last; ++i) all.emplace_back(job, tile, backward, i, share.parts, workspace);
  run(Streams<Stream>{all.data(), all.data() + all.size(), share.team});
}
template <typename T, typename F>
void with_streams(const dense::Job<T>& job, const dense::Tile& tile, const dense::Share& share, bool backward,
                  T* workspace, F&& run) {
  if constexpr (sizeof(T) == 4)
    if (job.winograd) return with_streams<WinogradStream<T>>(job, tile, share, backward, workspace, run);
  with_streams<DirectStream<T>>(job, tile, share, backward, workspace, run);
}

// Of a tile with a halo on both sides.
template <typename T>
size_t workspace_elements(const dense::Job<T>& job, int64_t columns, int parts, bool backward) {
  dense::Job<T> wide = job;
  const int64_t margin = (3 * dense::kMaxSources) * dense::kTile;
  wide.width = columns + 2 * margin;
  size_t elements = 0;
  with_streams(wide, dense::Tile{0, 0, 1, margin, margin + columns}, dense::Share{parts, 0, 1, nullptr}, backward,
               static_cast<T*>(nullptr), [&](const auto& streams) { elements = streams.front().arena.used; });
  return elements;
}

template <typename T>
void forward_tile(const dense::Job<T>& job, const dense::Tile& tile, const dense::Share& share, T* workspace) {
  with_streams(job, tile, share, false, workspace, [](const auto& streams) { forward_stream(streams); });
}

template <typename T>
void backward_tile(const dense::Job<T>& job, const dense::Tile& tile, const dense::Share& share,
                   const dense::Accumulators<T>* sums, T* workspace) {
  with_streams(job, tile, share, true, workspace, [&](const auto& streams) { backward_stream(streams, sums); });
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
