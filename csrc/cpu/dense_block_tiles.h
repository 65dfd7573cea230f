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
  int64_t group;  // strips begin at multiples of this many columns

  int64_t count() const { return shape.batch * bands * strips; }
  int64_t first(int64_t slot) const { return count() * slot / slots; }
  int64_t groups() const { return (shape.width + group - 1) / group; }
  int64_t tile_columns() const { return (groups() + strips - 1) / strips * group; }
  int64_t column(int64_t strip) const { return std::min(shape.width, groups() * strip / strips * group); }
  Tile tile(int64_t i) const {
    const int64_t strip = i % strips, band = i / strips % bands;
    return {i / (strips * bands), shape.height * band / bands, shape.height * (band + 1) / bands, column(strip),
            column(strip + 1)};
  }
};

// Chooses the grid whose busiest thread has the least to do, counting the halo that each cut computes again.
// bytes(columns): rings of a tile that wide.
template <typename Bytes>
Tiling make_tiling(const DenseBlockShape& shape, int threads, bool backward, int64_t group, size_t limit,
                   const Bytes& bytes) {
  // Rows (or columns) of work that a cut adds to each side, averaged over the levels by their cost.
  const double cut = backward ? 2.2 : 1.7;
  const int64_t most = std::max<int64_t>(1, threads);
  const auto strips_needed = [&](int64_t slots) {
    int64_t strips = 1;
    while (shape.width / strips > 32 &&
           bytes(Tiling{shape, 1, strips, 1, group}.tile_columns()) * size_t(slots) > limit)
      ++strips;
    return strips;
  };
  Tiling best = {shape, 1, 1, 1, group};
  double best_cost = -1;
  const int64_t strips_min = strips_needed(std::min(most, shape.batch * shape.height));
  for (int64_t strips = strips_min; strips < strips_min + 8 && strips <= best.groups(); ++strips)
    for (int64_t bands = 1; bands <= std::min(shape.height, 2 * most); ++bands) {
      Tiling t = {shape, bands, strips, 1, group};
      t.slots = std::min(most, t.count());
      const double rows = double((shape.height + bands - 1) / bands) + (bands > 1 ? 2 * cut : 0);
      const double columns = double(t.tile_columns()) + (strips > 1 ? 2 * cut * double(group) : 0);
      const double cost = double((t.count() + t.slots - 1) / t.slots) * rows * columns;
      if (best_cost < 0 || cost < best_cost * 0.999) {
        best = t;
        best_cost = cost;
      }
    }
  return best;
}

}  // namespace ivan_fast::cpu::dense
