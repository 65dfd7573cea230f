// How a dense block's work is cut: images into bands of rows and strips of columns, dealt to threads in fixed runs.
#pragma once

#include <algorithm>
#include <cstdint>

#include "dense_block_plan.h"
#include "ivan_fast/dense_block.h"

namespace ivan_fast::cpu::dense {

struct Tiling {
  DenseBlockShape shape;
  int64_t bands, strips, slots;
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

// Chooses the grid whose busiest thread has the least to do, counting the halo that each cut computes again.
// bytes(columns, slots): what a call takes with tiles so wide.
template <typename Bytes>
Tiling make_tiling(const DenseBlockShape& shape, int threads, bool backward, bool coupled, int64_t group, size_t limit,
                   const Bytes& bytes) {
  // Groups of rows (or columns) of work that a cut adds to each side, averaged over the levels by their cost.
  const double cut = (coupled ? 2.8 : backward ? 2.2 : 1.7) * double(group);
  const int64_t most = std::max<int64_t>(1, threads);
  const auto strips_needed = [&](int64_t slots) {
    int64_t strips = 1;
    while (shape.width / strips > 32 && bytes(Tiling{shape, 1, strips, 1, group}.tile_columns(), slots) > limit)
      ++strips;
    return strips;
  };
  Tiling best = {shape, 1, 1, 1, group};
  double best_cost = -1;
  const int64_t row_groups = best.groups(shape.height), column_groups = best.groups(shape.width);
  const int64_t strips_min = strips_needed(std::min(most, shape.batch * row_groups));
  for (int64_t strips = strips_min; strips < strips_min + 8 && strips <= column_groups; ++strips)
    for (int64_t bands = 1; bands <= std::min(row_groups, 2 * most); ++bands) {
      Tiling t = {shape, bands, strips, 1, group};
      t.slots = std::min(most, t.count());
      const double rows = double(t.tile_rows()) + (bands == 1 ? 0 : bands == 2 ? cut : 2 * cut);
      const double columns = double(t.tile_columns()) + (strips == 1 ? 0 : strips == 2 ? cut : 2 * cut);
      const double cost = double((t.count() + t.slots - 1) / t.slots) * rows * columns;
      if (best_cost < 0 || cost < best_cost * 0.999) {
        best = t;
        best_cost = cost;
      }
    }
  return best;
}

}  // namespace ivan_fast::cpu::dense
