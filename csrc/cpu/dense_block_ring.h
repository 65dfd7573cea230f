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

// The last `rows` rows of pixels, channels last. Pixel 0 of a row is the left neighbour of the stream's first column.
template <typename T>
struct Ring {
  T* base = nullptr;
  int64_t rows = 0, pixels = 0, channels = 0;

  Ring() = default;
  // Zeros everywhere: what is never written is the zero padding around the image, and of channels.
  Ring(Arena<T>& arena, int64_t rows_, int64_t pixels_, int64_t channels_)
      : base(arena.take(rows_ * pixels_ * channels_)), rows(rows_), pixels(pixels_), channels(channels_) {
    for (int64_t i = 0; base && i < rows * pixels * channels; ++i) base[i] = T(0);
  }
  T* row(int64_t r) const { return base + (r % rows) * pixels * channels; }
};

// The columns and rows of a tile, in pixels and in rows of `unit` pixels.
struct Extent {
  const dense::Tile& tile;
  int64_t height, width, unit;

  Range columns_with(int64_t margin) const {
    return within(tile.col0 - margin * unit, tile.col1 + margin * unit, width);
  }
  Range rows_with(int64_t margin) const {
    return within(tile.row0 / unit - margin, (tile.row1 + unit - 1) / unit + margin, (height + unit - 1) / unit);
  }
  static Range within(int64_t begin, int64_t end, int64_t size) {
    return {begin < 0 ? 0 : begin, end > size ? size : end};
  }
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
