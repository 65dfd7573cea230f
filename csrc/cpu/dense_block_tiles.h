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

// Columns below which strips are not made narrower: their halo would be most of the work.
constexpr int64_t kNarrowest = 32;

// Chooses the grid whose busiest thread has the least to do, counting the halo that each cut computes again and the
// waiting of threads that share a tile, among those that fit into `limit`; where none does, the one that takes least.
// bytes(columns, slots, parts): what a call takes with tiles so wide; linear in slots.
template <typename Bytes>
Tiling make_tiling(const DenseBlockShape& shape, int threads, bool backward, bool coupled, int64_t group, size_t limit,
                   const Bytes& bytes) {
  // Groups of rows (or columns) of work that a cut adds to each side, averaged over the levels by their cost.
  const double cut = (coupled ? 2.8 : backward ? 2.2 : 1.7) * double(group);
  // A wait after each row of each level takes about as long as computing a few columns.
  const auto waiting = [](int parts) { return parts > 1 ? 3.0 + 0.5 * parts : 0.0; };
  const auto halo = [&](int64_t pieces) { return pieces == 1 ? 0 : pieces == 2 ? cut : 2 * cut; };
  const int64_t most = std::max<int64_t>(1, threads);
  Tiling best = {shape, 1, 1, 1, 1, group}, smallest = best;
  const int64_t row_groups = best.groups(shape.height), column_groups = best.groups(shape.width);
  double best_cost = -1;
  size_t smallest_bytes = 0;
  for (int parts = 1; parts <= most && (parts == 1 || 2 * parts <= column_groups); parts += std::max(1, parts / 3)) {
    const int64_t teams = most / parts;
    for (int64_t strips = 1; strips == 1 || shape.width / strips >= kNarrowest;
         strips += std::max<int64_t>(1, strips / 8)) {
      Tiling t = {shape, 1, strips, 1, parts, group};
      const double columns = double(t.tile_columns()) + halo(strips);
      const double share = double((best.groups(int64_t(columns)) + parts - 1) / parts * group) + waiting(parts);
      int64_t fitting = -1;  // slots; asked for only where the grid is better than what is known
      for (t.bands = 1; t.bands <= std::min(row_groups, 2 * teams); ++t.bands) {
        const double rows = double(t.tile_rows()) + halo(t.bands);
        const auto cost = [&] { return double((t.count() + t.slots - 1) / t.slots) * rows * share; };
        t.slots = std::min(teams, t.count());
        if (best_cost >= 0 && cost() >= best_cost * 0.999) continue;
        if (fitting < 0) {
          const size_t one = bytes(t.tile_columns(), 1, parts), each = bytes(t.tile_columns(), 2, parts) - one;
          fitting = one > limit ? 0 : 1 + int64_t((limit - one) / each);
          if (smallest_bytes == 0 || one < smallest_bytes) {
            smallest = t;
            smallest.slots = 1;
            smallest_bytes = one;
          }
        }
        t.slots = std::min(t.slots, fitting);
        if (t.slots < 1 || (best_cost >= 0 && cost() >= best_cost * 0.999)) continue;
        best = t;
        best_cost = cost();
      }
    }
  }
  return best_cost < 0 ? smallest : best;
}

}  // namespace ivan_fast::cpu::dense
