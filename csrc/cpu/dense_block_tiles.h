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

  int64_t count() const { return shape.batch * bands * strips; }
  int64_t first(int64_t slot) const { return count() * slot / slots; }
  int64_t tile_columns() const { return (shape.width + strips - 1) / strips; }
  Tile tile(int64_t i) const {
    const int64_t strip = i % strips, band = i / strips % bands;
    return {i / (strips * bands), shape.height * band / bands, shape.height * (band + 1) / bands,
            shape.width * strip / strips, shape.width * (strip + 1) / strips};
  }
};

// Chooses the grid whose busiest thread has the least to do, counting the halo that each cut computes again.
// bytes(columns): rings of a tile that wide.
template <typename Bytes>
Tiling make_tiling(const DenseBlockShape& shape, int threads, bool backward, size_t limit, const Bytes& bytes) {
  // Rows (or columns) of work that a cut adds to each side, averaged over the levels by their cost.
  const double cut = backward ? 2.2 : 1.7;
  const int64_t most = std::max<int64_t>(1, threads);
  const auto strips_needed = [&](int64_t slots) {
    int64_t strips = 1;
    while (shape.width / strips > 32 && bytes((shape.width + strips - 1) / strips) * size_t(slots) > limit) ++strips;
    return strips;
  };
  Tiling best = {shape, 1, 1, 1};
  double best_cost = -1;
  const int64_t strips_min = strips_needed(std::min(most, shape.batch * shape.height));
  for (int64_t strips = strips_min; strips < strips_min + 8 && strips <= shape.width; ++strips)
    for (int64_t bands = 1; bands <= std::min(shape.height, 2 * most); ++bands) {
      Tiling t = {shape, bands, strips, 1};
      t.slots = std::min(most, t.count());
      const double rows = double((shape.height + bands - 1) / bands) + (bands > 1 ? 2 * cut : 0);
      const double columns = double(t.tile_columns()) + (strips > 1 ? 2 * cut : 0);
      const double cost = double((t.count() + t.slots - 1) / t.slots) * rows * columns;
      if (best_cost < 0 || cost < best_cost * 0.999) {
        best = t;
        best_cost = cost;
      }
    }
  return best;
}

}  // namespace ivan_fast::cpu::dense
