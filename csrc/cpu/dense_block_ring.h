// Rows that a stream keeps for its later steps, and images read into them.
#pragma once

#include "dense_block_rounding.h"
#include "dense_block_schedule.h"

namespace ivan_fast::cpu::IVAN_ISA {

// Memory handed out piece by piece, in cache lines; without a base, only counted.
template <typename T>
struct Arena {
  T* base;
  size_t used = 0;
  T* take(int64_t elements) {
    T* taken = base ? base + used : nullptr;
    used += size_t(elements + 15) / 16 * 16;
    return taken;
  }
};

// One part of a stream's columns, cut at the same places (multiples of `unit`) for every level; and what is next to
// load.
struct Part {
  int index, count;
  int64_t first_column, units, unit;
  int64_t next_x, next_grad;

  int64_t border(int i) const { return first_column + units * i / count * unit; }
  // The part's columns of a level's; may be none.
  Range of(const Range& columns) const {
    const int64_t begin = index == 0 ? columns.begin : border(index);
    const int64_t end = index + 1 == count ? columns.end : border(index + 1);
    const Range mine = {begin < columns.begin ? columns.begin : begin, end > columns.end ? columns.end : end};
    return mine.begin < mine.end ? mine : Range{columns.begin, columns.begin};
  }
  // At least the columns of any part.
  static int64_t widest(int64_t units, int count, int64_t unit) { return ((units + count - 1) / count) * unit; }
};

// The last `rows` rows of pixels, channels last. Pixel 0 of a row is the left neighbour of the stream's first column.
template <typename T>
struct Ring {
  T* base = nullptr;
  int64_t rows = 0, pixels = 0, channels = 0;

  Ring() = default;
  Ring(Arena<T>& arena, int64_t rows_, int64_t pixels_, int64_t channels_)
      : base(arena.take(rows_ * pixels_ * channels_)), rows(rows_), pixels(pixels_), channels(channels_) {}
  // Zeros: what is never written is the zero padding around the image, and of channels. Each part clears its share.
  void clear(const Part& part) const {
    const int64_t elements = rows * pixels * channels, end = elements * (part.index + 1) / part.count;
    for (int64_t i = elements * part.index / part.count; i < end; ++i) base[i] = T(0);
  }
  T* row(int64_t r) const { return base + (r % rows) * pixels * channels; }
};

// One row of an image [channels, H, W] to pixels of `stride` values.
template <typename T>
static void load_pixels(const T* image, int channels, const Extent& extent, int64_t row, const Range& columns, T* to,
                        int64_t stride) {
  for (int c = 0; c < channels; ++c) {
    const T* from = image + (c * extent.height + row) * extent.width;
    for (int64_t i = columns.begin; i < columns.end; ++i) to[(i - columns.begin) * stride + c] = from[i];
  }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
