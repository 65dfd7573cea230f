// The part of the stream that computes by Winograd F(4x4, 3x3): a row is a row of tiles, four rows of pixels.
//
// Each new row of a source is transformed once, by the level that needs it first, and serves every later level and the
// weight gradients. For 256 columns and growth 32 the backward's rings take 14 MB (17 with a coupling), which the
// threads of a team share: they live in L3, read at one or two bytes a cycle.
//
// An output all of whose inputs are exactly 0 is exactly its bias, as in a direct sum of finite weights, though others
// of its tile are not 0: the noise would otherwise decide LeakyReLU's derivative in the black background of an image
// under zero biases.
#pragma once

#include "dense_block_couple.h"
#include "dense_block_winograd_products.h"

namespace ivan_fast::cpu::IVAN_ISA {

// One source of a net: its rows of pixels, and of transformed tiles.
template <typename T>
struct TiledRing {
  Ring<T> pixels;      // channels padded to whole vectors
  T* tiles = nullptr;  // [row][f][tile][channel], channels not padded for source 0
  int64_t rows = 0, plane = 0;
  int channels = 0;
  T* tile_row(int64_t r) const { return tiles + (r % rows) * kFrequencies * plane; }
};

template <typename T>
struct WinogradStream {
  static constexpr int kRow = kTile;

  const dense::Job<T>& job;
  const Schedule schedule;
  const Extent extent;
  const int L;
  const int64_t first_column, tiles, pixels;
  Part part;
  Arena<T> arena;
  TiledRing<T> state[dense::kMaxSources];     // x, h_1 .. h_L
  TiledRing<T> gradient[dense::kMaxSources];  // grad_y, then the masked gradients of h_L .. h_1
  // One flag a pixel: whether x (0), whether an output of level j can differ from 0 at all. Kept for as many levels
  // as come before the first bias that is not 0; behind that, all can.
  Ring<T> alive[dense::kMaxSources + 1];
  int flagged = 0;  // levels 1 .. flagged have flags
  Ring<T> zeros;    // a row of pixels outside the image
  // Of each part:
  int64_t own_tiles;
  T* products;              // [f][tile][width] of one row of tiles
  T* transformed_gradient;  // [f][tile][width] of one row of tiles
  T* scratch;               // four rows of the output level in pixel-major order
  T* output;                // with a coupling: rows of h [out_channels][4][pixels]
  T* couple_room;

  WinogradStream(const dense::Job<T>& job_, const dense::Tile& tile, bool backward, int index, int parts, T* workspace)
      : job(job_),
        schedule{job.net.hidden, backward, backward && job.coupling.walk != CouplingWalk::kNone},
        extent{tile, job.height, job.width, kRow},
        L(job.net.hidden),
        first_column(extent.columns_with(schedule.x_margin()).begin),
        tiles(tiles_of(extent.columns_with(schedule.x_margin()).end - first_column)),
        pixels(tiles * kTile + 2),
        part{index,
             parts,
             first_column,
             tiles,
             kTile,
             rows_with(schedule.x_margin()).begin,
             rows_with(schedule.grad_y_margin()).begin},
        arena{workspace},
        own_tiles(Part::widest(tiles, parts, 1)) {
    const auto make = [&](const dense::Net<T>& net, int s, int64_t pixel_rows, int first, int last) {
      TiledRing<T> ring;
      ring.pixels = Ring<T>(arena, kRow * pixel_rows, pixels, s == 0 ? net.in_width : net.width);
      ring.channels = dense::source_channels(net, s);
      ring.plane = plane_elements(own_tiles, ring.channels);
      ring.rows = last - first + 1;
      return ring;
    };
    // Three rows of pixels are read at once; what is loaded comes one row earlier.
    for (int j = 0; j <= L; ++j) {
      const int masks = j > 0 ? schedule.last_mask_use(j) - schedule.hidden_lag(j) + 1 : 0;
      state[j] = make(job.net, j, Schedule::at_least(j > 0 ? 3 : 4, masks), schedule.first_state_use(j),
                      schedule.last_state_use(j));
    }
    while (flagged <= L && zero_bias(flagged)) ++flagged;
    for (int k = 0; k <= flagged; ++k) alive[k] = Ring<T>(arena, kRow * (k > 0 ? 3 : 4), pixels, 1);
    for (int m = 0; backward && m <= L; ++m)
      gradient[m] = make(job.gradient, m, m > 0 ? 3 : 4, schedule.first_gradient_use(m), schedule.last_gradient_use());
    const int width = Schedule::at_least(job.net.width, Schedule::at_least(job.net.in_width, job.net.out_width));
    zeros = Ring<T>(arena, 1, pixels, width);
    for (int i = 0; i < parts; ++i) {
      const auto take_tiles = [&](TiledRing<T>& ring) {
        T* own = arena.take(ring.rows * kFrequencies * ring.plane);
        if (i == index) ring.tiles = own;
      };
      for (int j = 0; j <= L; ++j) {
        take_tiles(state[j]);
        if (backward) take_tiles(gradient[j]);
      }
      T* own_products = arena.take(kFrequencies * plane_elements(own_tiles, width));
      T* own_gradient = arena.take(backward ? kFrequencies * plane_elements(own_tiles, width) : 0);
      T* own_scratch = arena.take(kRow * own_pixels() * width);
      T* own_output = arena.take(schedule.coupled ? kRow * own_pixels() * job.net.out_channels : 0);
      T* own_room = arena.take(schedule.coupled ? couple_scratch<T>(own_pixels()) : 0);
      if (i != index) continue;
      products = own_products;
      transformed_gradient = own_gradient;
      scratch = own_scratch;
      output = own_output;
      couple_room = own_room;
    }
  }

  void clear() const {
    for (int j = 0; j <= L; ++j) {
      state[j].pixels.clear(part);
      if (schedule.backward) gradient[j].pixels.clear(part);
    }
    for (int k = 0; k <= flagged; ++k) alive[k].clear(part);
    zeros.clear(part);
  }

  int64_t own_pixels() const { return own_tiles * kTile; }
  // Whether all biases of level k are 0; x (0) has none. Where biases are not known yet, they count as 0.
  bool zero_bias(int k) const {
    for (int o = 0; job.net.bias[k] && o < dense::bias_elements(job.net, k); ++o)
      if (job.net.bias[k][o] != T(0)) return false;
    return true;
  }
  static int64_t tiles_of(int64_t columns) { return (columns + kTile - 1) / kTile; }
  Range rows_with(int64_t margin) const { return extent.rows_with(margin); }
  int64_t pixel_rows(int64_t row) const { return job.height - row * kRow < kRow ? job.height - row * kRow : kRow; }
  T* at(const Ring<T>& ring, int64_t y, int64_t column) const {
    return ring.row(y) + (column - first_column + 1) * ring.channels;
  }
  int64_t tile_offset(const TiledRing<T>& ring, int64_t column) const {
    return (column - part.border(part.index)) / kTile * ring.channels;
  }

  void load(const TiledRing<T>& ring, const T* image, int channels, int64_t row, const Range& columns) const {
    for (int64_t y = row * kRow; y < row * kRow + pixel_rows(row); ++y)
      load_pixels(image, channels, extent, y, columns, at(ring.pixels, y, columns.begin), ring.pixels.channels);
  }
  // Rows up to and with `last`, as far as the tile reaches.
  void load_x_until(int64_t last) {
    const Range columns = part.of(extent.columns_with(schedule.x_margin()));
    for (; part.next_x < rows_with(schedule.x_margin()).end && part.next_x <= last; ++part.next_x) {
      const int64_t row = part.next_x;
      load(state[0], job.x + extent.tile.image * job.x_batch_stride, job.net.in_channels, row, columns);
      for (int64_t y = row * kRow; y < row * kRow + pixel_rows(row); ++y)
        mark_nonzero(at(state[0].pixels, y, columns.begin), columns.end - columns.begin, job.net.in_width,
                     at(alive[0], y, columns.begin));
    }
  }
  void load_grad_y_until(int64_t last) {
    const Range columns = part.of(extent.columns_with(schedule.grad_y_margin()));
    for (; part.next_grad < rows_with(schedule.grad_y_margin()).end && part.next_grad <= last; ++part.next_grad)
      load(gradient[0], job.grad_y + extent.tile.image * job.grad_y_batch_stride, job.net.out_channels, part.next_grad,
           columns);
  }

  // The transform of a source's row, over the columns of the level that needs it first.
  void transform(const TiledRing<T>& ring, int64_t row, const Range& columns) const {
    const T* rows[kPoints];
    for (int i = 0; i < kPoints; ++i) {
      const int64_t y = row * kRow - 1 + i;
      rows[i] = y < 0 || y >= job.height ? zeros.base : at(ring.pixels, y, columns.begin - 1);
    }
    transform_input(rows, tiles_of(columns.end - columns.begin), int(ring.pixels.channels), ring.channels,
                    ring.tile_row(row) + tile_offset(ring, columns.begin), ring.plane);
  }
  TileRows<T> tile_rows(const TiledRing<T>* rings, int count, int64_t row, int64_t column) const {
    TileRows<T> rows = {};
    for (int s = 0; s < count; ++s) {
      rows.at[s] = rings[s].tile_row(row) + tile_offset(rings[s], column);
      rows.plane[s] = rings[s].plane;
    }
    return rows;
  }

  // Which outputs of level k have any input that can differ from 0; null where all have.
  void alive_rows(int k, int64_t row, const Range& columns, const T** rows) const {
    for (int i = 0; k <= flagged && i < pixel_rows(row); ++i) {
      const int64_t y = row * kRow + i;
      const T* before[3];
      for (int kh = 0; kh < 3; ++kh)
        before[kh] = y + kh < 1 || y + kh > job.height ? nullptr : at(alive[k - 1], y + kh - 1, columns.begin - 1);
      T* flags = at(alive[k], y, columns.begin);
      spread_flags(before, columns.end - columns.begin, flags);
      rows[i] = flags;
    }
  }

  // A row of level k of a net, channels last: to.out is where it goes.
  void level(const dense::Net<T>& net, const TiledRing<T>* rings, int k, int64_t row, const Range& columns,
             const TileTarget<T>& to) const {
    const int64_t count = columns.end - columns.begin;
    const int width = dense::level_width(net, k);
    const int64_t plane = plane_elements(own_tiles, width);
    level_products(net, k, tile_rows(rings, k, row, columns.begin), tiles_of(count), products, plane);
    transform_output(products, plane, count, width, to);
  }
  void ring_level(const dense::Net<T>& net, const TiledRing<T>* rings, int k, int64_t row, int margin,
                  const Ring<T>* mask) const {
    const Range columns = part.of(extent.columns_with(margin));
    transform(rings[k - 1], row, columns);
    TileTarget<T> to = {};
    to.bias = net.bias[k];
    to.finish = mask ? Finish::kMask : Finish::kLeaky;
    to.slope = job.slope;
    if (!mask) alive_rows(k, row, columns, to.alive);
    for (int i = 0; i < pixel_rows(row); ++i) {
      to.out[i] = at(rings[k].pixels, row * kRow + i, columns.begin);
      to.mask[i] = mask ? at(*mask, row * kRow + i, columns.begin) : nullptr;
    }
    level(net, rings, k, row, columns, to);
  }
  void hidden_row(int k, int64_t row) const { ring_level(job.net, state, k, row, schedule.hidden_margin(k), nullptr); }
  void gradient_row(int m, int64_t row) const {
    ring_level(job.gradient, gradient, m, row, schedule.gradient_margin(m), &state[L + 1 - m].pixels);
  }

  // A row of the output level: channel q of the first of `columns` at to[q * channel_stride + i * row_stride].
  void output_level(const dense::Net<T>& net, const TiledRing<T>* rings, bool known, int64_t row, const Range& columns,
                    T* to, int64_t channel_stride, int64_t row_stride) const {
    transform(rings[L], row, columns);
    const int64_t count = columns.end - columns.begin;
    const int rows = int(pixel_rows(row));
    TileTarget<T> target = {};
    if (known) alive_rows(L + 1, row, columns, target.alive);
    if (net.out_dot) {
      const TileRows<T> sources = tile_rows(rings, L + 1, row, columns.begin);
      const int64_t plane = plane_elements(own_tiles, kLanes<T>);
      for (int q = 0; q < net.out_channels; ++q) {
        dot_products(net, q, sources, tiles_of(count), products, plane);
        dot_outputs(products, plane, count, rows, target.alive, net.bias[L + 1][q], to + q * channel_stride,
                    row_stride);
      }
      return;
    }
    target.bias = net.bias[L + 1];
    for (int i = 0; i < rows; ++i) target.out[i] = scratch + i * own_pixels() * net.out_width;
    level(net, rings, L + 1, row, columns, target);
    for (int q = 0; q < net.out_channels; ++q)
      for (int i = 0; i < rows; ++i)
        for (int64_t x = 0; x < count; ++x)
          to[q * channel_stride + i * row_stride + x] = target.out[i][x * net.out_width + q];
  }
  void image_row(const dense::Net<T>& net, const TiledRing<T>* rings, bool known, int64_t row, T* image) const {
    const int64_t plane = job.height * job.width;
    const Range columns = part.of(extent.columns_with(0));
    T* to = image + extent.tile.image * net.out_channels * plane + row * kRow * job.width + columns.begin;
    output_level(net, rings, known, row, columns, to, plane, job.width);
  }
  void output_row(int64_t row) const {
    if (schedule.coupled)
      output_level(job.net, state, true, row, part.of(extent.columns_with(schedule.output_margin())), output,
                   kRow * own_pixels(), own_pixels());
    else
      image_row(job.net, state, true, row, job.y);
  }
  void grad_x_row(int64_t row) const { image_row(job.gradient, gradient, false, row, job.grad_x); }

  void couple_row(int64_t row) const {
    const Range columns = part.of(extent.columns_with(schedule.output_margin()));
    for (int i = 0; i < pixel_rows(row); ++i)
      IVAN_ISA::couple_row(job.coupling, extent.tile.image, job.net.out_channels, extent, row * kRow + i, columns,
                           rows_with(0).contains(row), output + i * own_pixels(), kRow * own_pixels(),
                           at(gradient[0].pixels, row * kRow + i, columns.begin), gradient[0].pixels.channels,
                           couple_room);
  }

  // Parameter gradients of hidden level k from its masked gradient, of the output level from grad_y.
  void parameter_gradients(int k, int64_t row, const dense::Accumulators<T>& sums) const {
    const Ring<T>& g = gradient[L + 1 - k].pixels;
    const Range columns = part.of(extent.columns_with(0));
    const int64_t count = columns.end - columns.begin, plane = plane_elements(own_tiles, g.channels);
    const T* rows[kTile];
    for (int i = 0; i < kTile; ++i) {
      rows[i] = i < pixel_rows(row) ? at(g, row * kRow + i, columns.begin) : zeros.base;
      if (i < pixel_rows(row))
        bias_gradient(rows[i], count, g.channels, dense::bias_elements(job.net, k), sums.bias[k]);
    }
    const int64_t used = tiles_of(count);
    transform_gradient(rows, used, int(g.channels), transformed_gradient, plane);
    const TileRows<T> sources = tile_rows(state, k, row, columns.begin);
    if (k == L + 1 && job.net.out_dot)
      dot_tile_gradient(job.net, sources, transformed_gradient, plane, int(g.channels), used, sums.weights[k]);
    else
      level_tile_gradient(job.net, k, sources, transformed_gradient, plane, used, sums.weights[k]);
  }
};

}  // namespace ivan_fast::cpu::IVAN_ISA
