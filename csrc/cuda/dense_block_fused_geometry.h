// Launch geometry of the fused kernel, as plain host functions.
//
// A block of threads owns a strip of columns and some rows of an image, and walks down in steps of `rows` rows. In a
// step every level computes that many rows, one row behind the level before, so the rows of each level that others
// still read fit a ring in shared memory. All levels compute `cols` columns, of which those near the ends go wrong
// one by one from level to level: the strip that is stored is 2 * hidden columns narrower.
#pragma once

#include <array>

#include "dense_block_geometry.h"

namespace ivan_fast::cuda {

// Threads of a block at most. TF32 takes more registers; its rows, twice as wide, leave no room for more anyway.
IVAN_BOTH constexpr int most_fused_threads(std::size_t operand_size) { return operand_size == 2 ? 512 : 256; }

struct FusedGeometry {
  bool possible;
  int cols, rows;         // columns of a block, rows of a step
  int strip, strips;      // columns that a block stores; strips of the region
  int block_rows, bands;  // rows that a block stores; bands of the region
  int threads;
  int resident;  // blocks that a multiprocessor holds at once
  std::int64_t shared_bytes;
};

// Rows of level j's ring: from the oldest that the output level reads to the newest.
IVAN_BOTH inline int ring_rows(int hidden, int rows, int j) { return rows + hidden + 2 - j; }
IVAN_BOTH inline int source_ring_rows(int hidden, int rows) { return 2 * rows + hidden + 2; }
// Bytes of a ring's row: a pixel of a slice is 16 channels, and there is one more pixel on each side.
IVAN_BOTH inline int ring_row_bytes(int cols, int operand_size) { return (cols + 2) * kSlice * operand_size; }
// Where level j's ring begins.
IVAN_BOTH inline std::int64_t ring_offset(const DenseNet& net, int cols, int rows, int operand_size, int j) {
  const std::int64_t rows_before = std::int64_t(j - 1) * (rows + net.hidden + 2) - std::int64_t(j) * (j - 1) / 2;
  return rows_before * net.level_slices() * ring_row_bytes(cols, operand_size);
}
// Two stages of weights, each of all taps of a slice.
IVAN_BOTH inline int stage_bytes(int operand_size) { return 9 * kPair * kSlice * operand_size; }
IVAN_BOTH inline std::int64_t source_offset(const DenseNet& net, int cols, int rows, int operand_size) {
  return ring_offset(net, cols, rows, operand_size, net.hidden + 1) + 2 * stage_bytes(operand_size);
}

inline std::int64_t fused_shared_bytes(const DenseNet& net, int cols, int rows, int operand_size) {
  const std::int64_t source =
      std::int64_t(net.in_channels) * source_ring_rows(net.hidden, rows) * (cols + 2) * operand_size;
  return (source_offset(net, cols, rows, operand_size) + source + 15) / 16 * 16;
}

// Blocks that a multiprocessor holds at once. It has 1 KB more than one block may use, and keeps as much of each block
// for itself; its registers are those of one block of the most threads.
inline int fused_resident(int threads, std::int64_t shared_bytes, int operand_size, const DenseBlockDevice& device) {
  const std::int64_t by_shared = (device.shared_bytes + 1024) / (shared_bytes + 1024);
  return int(std::min<std::int64_t>(by_shared, most_fused_threads(std::size_t(operand_size)) / threads));
}

// For a region of height x width pixels of so many images. The fastest by a rough model of the multiprocessor that has
// most to do: so many clocks a pixel, and for a step's barriers, which blocks that it holds at once wait for together.
// None of it has been measured. Whether it is possible does not depend on the region.
inline FusedGeometry fused_geometry(const DenseNet& net, std::int64_t images, std::int64_t height, std::int64_t width,
                                    int operand_size, const DenseBlockDevice& device) {
  constexpr double kPixelClocks = 33, kStepClocks = 1000;
  FusedGeometry best{};
  if (net.hidden < 1 || net.growth > kPair || net.out_channels > kSlice) return best;
  double least = 0;
  for (const int cols : {128, 96, 64, 48, 32})
    for (const int rows : {4, 2}) {
      FusedGeometry g{true, cols, rows, cols - 2 * net.hidden, 0, 0, 0, cols / 16 * 64, 0, 0};
      g.shared_bytes = fused_shared_bytes(net, cols, rows, operand_size);
      if (g.strip < 16 || g.threads > most_fused_threads(std::size_t(operand_size)) ||
          g.shared_bytes > device.shared_bytes)
        continue;
      g.resident = fused_resident(g.threads, g.shared_bytes, operand_size, device);
      g.strips = int(ceil_div(width, g.strip));
      // More bands than that leave the device no fuller.
      const std::int64_t resident = std::int64_t(g.resident) * device.multiprocessors;
      const std::int64_t enough = 1 + 4 * resident / (std::int64_t(g.strips) * images);
      for (std::int64_t bands = 1; bands <= std::min({ceil_div(height, 16), std::int64_t(65535), enough}); ++bands) {
        g.block_rows = int(ceil_div(height, bands));
        g.bands = int(ceil_div(height, g.block_rows));
        const std::int64_t steps = ceil_div(g.block_rows + 2 * net.hidden, rows);
        const std::int64_t blocks = ceil_div(std::int64_t(g.strips) * g.bands * images, device.multiprocessors);
        const double waits = kStepClocks / double(std::min<std::int64_t>(blocks, g.resident));
        const double clocks = double(blocks * steps) * (kPixelClocks * rows * cols + waits);
        if (best.possible && clocks >= least) continue;
        least = clocks;
        best = g;
      }
    }
  return best;
}

// The same, searched for once for each thread and the last few nets, regions and devices.
inline FusedGeometry remembered_geometry(const DenseNet& net, std::int64_t images, std::int64_t height,
                                         std::int64_t width, int operand_size, const DenseBlockDevice& device) {
  struct Known {
    std::array<std::int64_t, 11> key;
    FusedGeometry geometry;
  };
  thread_local std::array<Known, 16> known{};
  thread_local std::size_t next = 0;
  const std::array<std::int64_t, 11> key{
      net.hidden, net.in_channels, net.out_channels,       net.growth,         net.mirrored, images, height,
      width,      operand_size,    device.multiprocessors, device.shared_bytes};
  for (const Known& k : known)
    if (k.key == key) return k.geometry;
  Known& k = known[next++ % known.size()];
  k = {key, fused_geometry(net, images, height, width, operand_size, device)};
  return k.geometry;
}

}  // namespace ivan_fast::cuda
