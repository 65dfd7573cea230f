// How a dense block's work is cut: images into bands of rows and strips of columns, dealt to threads in fixed runs.
#pragma once

#include <algorithm>
#include <cstdint>

#include "dense_block_plan.h"
#include "ivan_fast/dense_block.h"

namespace ivan_fast::cpu::dense {

// Tiles are dealt to `slots` teams of `parts` threads each, which share a tile's columns.
struct Tiling {
  DenseBlockShape shape;
  int64_t bands, strips, slots;
  int parts;
  int64_t group;  // bands and strips begin at multiples of this many rows and columns

  int64_t count() const { return shape.batch * bands * strips; }
  int64_t first(int64_t slot) const { return count() * slot / slots; }
  int64_t groups(int64_t size) const { return (size + group - 1) / group; }
  int64_t tile_columns() const { return (groups(shape.width) + strips - 1) / strips * group; }
  int64_t tile_rows() const { return (groups(shape.height) + bands - 1) / bands * group; }
  // Where part `i` of `parts` of a side of `size` pixels begins.
  int64_t begin(int64_t size, int64_t parts, int64_t i) const {
    return std::min(size, groups(size) * i / parts * group);
  }
  Tile tile(int64_t i) const {
    const int64_t strip = i % strips, band = i / strips % bands;
    return {i / (strips * bands), begin(shape.height, bands, band), begin(shape.height, bands, band + 1),
            begin(shape.width, strips, strip), begin(shape.width, strips, strip + 1)};
  }
};

// Chooses the grid whose busiest thread has the least to do, counting the halo that each cut computes again and the
// waiting of threads that share a tile. bytes(columns, slots, parts): what a call takes with tiles so wide.
template <typename Bytes>
Tiling make_tiling(const DenseBlockShape& shape, int threads, bool backward, bool coupled, int64_t group, size_t limit,
                   const Bytes& bytes) {
  // Groups of rows (or columns) of work that a cut adds to each side, averaged over the levels by their cost.
  const double cut = (coupled ? 2.8 : backward ? 2.2 : 1.7) * double(group);
  // A wait after each row of each level takes about as long as computing a few columns.
  const auto waiting = [](int parts) { return parts > 1 ? 3.0 + 0.5 * parts : 0.0; };
  const int64_t most = std::max<int64_t>(1, threads);
  Tiling best = {shape, 1, 1, 1, 1, group};
  const int64_t row_groups = best.groups(shape.height), column_groups = best.groups(shape.width);
  double best_cost = -1;
  for (int parts = 1; parts <= most && (parts == 1 || 2 * parts <= column_groups); ++parts) {
    const int64_t teams = most / parts;
    // As few strips as memory allows, or a few more.
    int64_t fewest = 1;
    for (; shape.width / fewest > 32; ++fewest) {
      const Tiling t = {shape, 1, fewest, 1, parts, group};
      if (bytes(t.tile_columns(), std::min(teams, shape.batch * row_groups), parts) <= limit) break;
    }
    for (int64_t strips = fewest; strips < fewest + 8 && strips <= column_groups; ++strips)
      for (int64_t bands = 1; bands <= std::min(row_groups, 2 * teams); ++bands) {
        Tiling t = {shape, bands, strips, 1, parts, group};
        t.slots = std::min(teams, t.count());
        const double rows = double(t.tile_rows()) + (bands == 1 ? 0 : bands == 2 ? cut : 2 * cut);
        const double columns = double(t.tile_columns()) + (strips == 1 ? 0 : strips == 2 ? cut : 2 * cut);
        const int64_t share = (best.groups(int64_t(columns)) + parts - 1) / parts * group;
        const double cost = double((t.count() + t.slots - 1) / t.slots) * rows * (double(share) + waiting(parts));
        if (best_cost < 0 || cost < best_cost * 0.999) {
          best = t;
          best_cost = cost;
        }
      }
  }
  return best;
}

}  // namespace ivan_fast::cpu::dense
