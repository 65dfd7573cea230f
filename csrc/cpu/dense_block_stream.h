// The row stream over one tile: rings, and the steps that fill them.
//
// Every level keeps only as many rows as later steps still read (ring_sizes): for 256 columns and growth 32 the
// forward's rings take 0.6 MB and the backward's 1.3 MB a thread, whatever the height. A kernel row of weights stays
// in L1 while a row of the image passes, so the rings may live in L2 or L3.
#pragma once

#include "dense_block_dot.h"
#include "dense_block_gemm.h"
#include "dense_block_rounding.h"
#include "dense_block_wgrad.h"
#include "dense_block_winograd.h"

namespace ivan_fast::cpu::IVAN_ISA {

template <typename T>
struct Ring {
  T* base;
  int64_t rows, pixels, channels;
  T* row(int64_t r) const { return base + (r % rows) * pixels * channels; }
};

struct Range {
  int64_t begin, end;
  bool contains(int64_t i) const { return i >= begin && i < end; }
};

template <typename T>
struct Stream {
  const dense::Job<T>& job;
  const dense::Tile& tile;
  const int hidden;
  const int scale;                       // columns are computed in groups of this many
  int64_t first_column, tiles, pixels;   // ring rows: pixel 0 is image column first_column - 1
  Ring<T> state[dense::kMaxSources];     // x, h_1 .. h_L
  Ring<T> gradient[dense::kMaxSources];  // grad_y, then the masked gradients of h_L .. h_1
  // Winograd: [f][tile][channel] rows of h_1 .. h_(L - 1), and of all gradients but the last.
  Ring<T> state_transformed[dense::kMaxSources], gradient_transformed[dense::kMaxSources];
  Ring<T> nonzero[dense::kMaxSources];  // of h_1 .. h_(L - 1): one flag a pixel
  T* alive;                             // a row of flags
  T* products;                          // [f][tile][width] of one row
  T* transformed_gradient;              // [f][tile][width] of one row
  T* scratch;                           // a row of the output level in pixel-major order

  Stream(const dense::Job<T>& job_, const dense::Tile& tile_, bool backward, T* workspace)
      : job(job_), tile(tile_), hidden(job_.net.hidden), scale(job_.winograd ? dense::kTile : 1) {
    const Range columns = columns_with(dense::halo(hidden, backward));
    first_column = columns.begin;
    tiles = (columns.end - columns.begin + scale - 1) / scale;
    pixels = tiles * scale + 2;
    const dense::RingSizes size = dense::ring_sizes(hidden, backward);
    T* next = workspace;
    const auto take = [&](int64_t elements) {
      T* taken = next;
      next += (elements + 15) / 16 * 16;
      return taken;
    };
    const auto make = [&](int64_t rows, int64_t channels) {
      Ring<T> ring = {take(rows * pixels * channels), rows, pixels, channels};
      for (int64_t r = 0; r < rows; ++r) {  // zero padding on both sides of the image
        T* row = ring.row(r);
        for (int64_t c = 0; c < channels; ++c) row[c] = T(0);
        for (int64_t i = (columns.end - columns.begin + 1) * channels; i < pixels * channels; ++i) row[i] = T(0);
      }
      return ring;
    };
    const int64_t width = job.net.width;
    const auto make_transformed = [&](int64_t rows) {
      const int64_t channels = dense::kFrequencies * width;
      return Ring<T>{take(rows * tiles * channels), rows, tiles, channels};
    };
    state[0] = make(size.x, job.net.in_channels);
    for (int k = 1; k <= hidden; ++k) state[k] = make(size.hidden[k], width);
    if (backward) {
      gradient[0] = make(size.grad_y, job.net.out_channels);
      for (int m = 1; m <= hidden; ++m) gradient[m] = make(size.gradient[m], width);
    }
    if (job.winograd) {
      for (int k = 1; k < hidden; ++k) {
        state_transformed[k] = make_transformed(size.hidden[k]);
        nonzero[k] = make(size.hidden[k], 1);
      }
      alive = take(pixels);
      for (int m = 1; backward && m < hidden; ++m) gradient_transformed[m] = make_transformed(size.gradient[m]);
      products = take(dense::kFrequencies * tiles * width);
      transformed_gradient = take(dense::kFrequencies * tiles * width);
    }
    scratch = next;
  }

  Range columns_with(int64_t margin) const {
    return within(tile.col0 - margin * scale, tile.col1 + margin * scale, job.width);
  }
  Range rows_with(int64_t margin) const { return within(tile.row0 - margin, tile.row1 + margin, job.height); }
  static Range within(int64_t begin, int64_t end, int64_t size) {
    return {begin < 0 ? 0 : begin, end > size ? size : end};
  }

  T* at(const Ring<T>& ring, int64_t row, int64_t column) const {
    return ring.row(row) + (column - first_column + 1) * ring.channels;
  }
  T* transformed_at(const Ring<T>& ring, int64_t row, int64_t column) const {
    return ring.row(row) + (column - first_column) / dense::kTile * job.net.width;
  }
  static int64_t tiles_of(int64_t columns) { return (columns + dense::kTile - 1) / dense::kTile; }

  // Pointers to the left neighbours of `column` in the three rows around `row` of the first `count` rings.
  void neighbours(const Ring<T>* rings, int count, int64_t row, int64_t column, const T* (*rows)[3]) const {
    for (int s = 0; s < count; ++s)
      for (int kh = 0; kh < 3; ++kh) {
        const int64_t r = row + kh - 1;
        rows[s][kh] = r < 0 || r >= job.height ? nullptr : at(rings[s], r, column - 1);
      }
  }

  // One row of an image [channels, H, W] into a ring, channels last.
  void load_row(const Ring<T>& ring, const T* image, int64_t row, int64_t margin) const {
    const Range columns = columns_with(margin);
    T* to = at(ring, row, columns.begin);
    const int64_t count = columns.end - columns.begin;
    for (int64_t c = 0; c < ring.channels; ++c) {
      const T* from = image + (c * job.height + row) * job.width + columns.begin;
      for (int64_t i = 0; i < count; ++i) to[i * ring.channels + c] = from[i];
    }
    dense::round_values(to, count * ring.channels, job.rounding);
  }

  // The same for transformed rows and the tile that starts at `column`; there is none for source 0.
  void transformed_neighbours(const Ring<T>* rings, int count, int64_t row, int64_t column, const T* (*rows)[3]) const {
    for (int s = 1; s < count; ++s)
      for (int kh = 0; kh < 3; ++kh) {
        const int64_t r = row + kh - 1;
        rows[s][kh] = r < 0 || r >= job.height ? nullptr : transformed_at(rings[s], r, column);
      }
  }

  // Which outputs of a level have any input other than 0 among the hidden levels.
  const T* alive_row(int level, int64_t row, const Range& columns) const {
    const T* rows[dense::kMaxSources][3] = {};
    neighbours(nonzero + 1, level - 1, row, columns.begin, rows);
    mark_alive(&rows[0][0], 3 * (level - 1), columns.end - columns.begin, alive);
    return alive;
  }

  // A row of hidden level `level` of a net into its ring, and transformed for the levels after it. `mask`: the ring
  // whose signs decide instead of the sums' own.
  void hidden_row(const dense::Net<T>& net, const Ring<T>* rings, const Ring<T>* transformed, int level, int64_t row,
                  int64_t margin, const Ring<T>* mask) const {
    const Range columns = columns_with(margin);
    const int64_t count = columns.end - columns.begin;
    const T* rows[dense::kMaxSources][3];
    neighbours(rings, level, row, columns.begin, rows);
    T* out = at(rings[level], row, columns.begin);
    const Finish finish = mask ? Finish::kMask : Finish::kLeaky;
    const T* mask_row = mask ? at(*mask, row, columns.begin) : nullptr;
    const bool direct = !job.winograd || level == 1;
    level_row(net, level, net.width, direct ? level : 1, rows, count, direct ? finish : Finish::kNone, mask_row,
              job.slope, out);
    if (!direct) {
      transformed_neighbours(transformed, level, row, columns.begin, rows);
      winograd_products(net, level, rows, tiles * net.width, tiles_of(count), products);
      transform_output(products, count, net.width, finish, mask_row, mask ? nullptr : alive_row(level, row, columns),
                       job.slope, out);
    }
    dense::round_values(out, count * net.width, job.rounding);
    if (!job.winograd || level == hidden) return;
    if (!mask) mark_nonzero(out, count, net.width, at(nonzero[level], row, columns.begin));
    const Range needed = columns_with(margin - 1);
    transform_input(at(rings[level], row, needed.begin - 1), tiles_of(needed.end - needed.begin), net.width,
                    transformed_at(transformed[level], row, needed.begin), tiles * net.width);
  }

  // The output level's row of the tile into an image [out_channels, H, W].
  void output_row(const dense::Net<T>& net, const Ring<T>* rings, int64_t row, T* image) const {
    const T* rows[dense::kMaxSources][3];
    neighbours(rings, hidden + 1, row, tile.col0, rows);
    const int64_t count = tile.col1 - tile.col0, plane = job.height * job.width;
    T* to = image + row * job.width + tile.col0;
    if (net.out_dot) return output_row_dot(net, rows, count, to, plane);
    level_row(net, hidden + 1, net.out_width, hidden + 1, rows, count, Finish::kNone, static_cast<const T*>(nullptr),
              job.slope, scratch);
    for (int64_t c = 0; c < net.out_channels; ++c)
      for (int64_t i = 0; i < count; ++i) to[c * plane + i] = scratch[i * net.out_width + c];
  }

  // Parameter gradients of hidden level `level` from its masked gradient, of the output level from grad_y.
  void parameter_gradients(int level, int64_t row, const dense::Accumulators<T>& sums) const {
    const dense::Net<T>& net = job.net;
    const T* rows[dense::kMaxSources][3];
    neighbours(state, level, row, tile.col0, rows);
    const int64_t count = tile.col1 - tile.col0;
    const T* g = at(gradient[hidden + 1 - level], row, tile.col0);
    if (level <= hidden) {
      const bool direct = !job.winograd || level == 1;
      level_gradient(net, net.width, direct ? level : 1, rows, g, count, sums.weights[level], sums.bias[level]);
      if (direct) return;
      transform_gradient(g, tiles_of(count), net.width, transformed_gradient);
      transformed_neighbours(state_transformed, level, row, tile.col0, rows);
      return winograd_gradient(net, level, rows, tiles * net.width, transformed_gradient, tiles_of(count),
                               sums.transformed[level]);
    }
    if (net.out_dot) return output_gradient_dot(net, rows, g, count, sums.weights[level], sums.bias[level]);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = 0; c < net.out_width; ++c)
        scratch[i * net.out_width + c] = c < net.out_channels ? g[i * net.out_channels + c] : T(0);
    level_gradient(net, net.out_width, level, rows, scratch, count, sums.weights[level], sums.bias[level]);
  }
};

// Step t computes h_k's row t - (k - 1) and y's row t - L.
template <typename T>
static void forward_tile(const dense::Job<T>& job, const dense::Tile& tile, T* workspace) {
  Stream<T> stream(job, tile, false, workspace);
  const int L = stream.hidden;
  const T* x = job.x + tile.image * job.x_batch_stride;
  T* y = job.y + tile.image * job.net.out_channels * job.height * job.width;
  const Range x_rows = stream.rows_with(L + 1);
  int64_t next_x = x_rows.begin;
  for (int64_t t = tile.row0 < L ? 0 : tile.row0 - L; t < tile.row1 + L; ++t) {
    for (; next_x < x_rows.end && next_x <= t + 1; ++next_x) stream.load_row(stream.state[0], x, next_x, L + 1);
    for (int k = 1; k <= L; ++k)
      if (stream.rows_with(L + 1 - k).contains(t - (k - 1)))
        stream.hidden_row(job.net, stream.state, stream.state_transformed, k, t - (k - 1), L + 1 - k, nullptr);
    if (stream.rows_with(0).contains(t - L)) stream.output_row(job.net, stream.state, t - L, y);
  }
}

// Step t computes h_k's row t - (k - 1), y's row t - L, the masked gradient of h_(L + 1 - m) at row t - (L + m - 2),
// and grad_x's row t - (2 L - 1); parameter gradients are added as soon as a row's gradient is there.
template <typename T>
static void backward_tile(const dense::Job<T>& job, const dense::Tile& tile, const dense::Accumulators<T>& sums,
                          T* workspace) {
  Stream<T> stream(job, tile, true, workspace);
  const int L = stream.hidden;
  const int64_t plane = job.height * job.width;
  const T* x = job.x + tile.image * job.x_batch_stride;
  const T* grad_y = job.grad_y + tile.image * job.grad_y_batch_stride;
  T* y = job.y + tile.image * job.net.out_channels * plane;
  T* grad_x = job.grad_x + tile.image * job.net.in_channels * plane;
  const int64_t x_margin = dense::halo(L, true), lead = L > 0 ? 2 * L - 1 : 0;
  const Range own = stream.rows_with(0), x_rows = stream.rows_with(x_margin), grad_rows = stream.rows_with(L + 1);
  int64_t next_x = x_rows.begin, next_grad = grad_rows.begin;
  for (int64_t t = tile.row0 < lead ? 0 : tile.row0 - lead; t < tile.row1 + lead; ++t) {
    for (; next_x < x_rows.end && next_x <= t + 1; ++next_x) stream.load_row(stream.state[0], x, next_x, x_margin);
    for (int k = 1; k <= L; ++k)
      if (stream.rows_with(2 * L - k).contains(t - (k - 1)))
        stream.hidden_row(job.net, stream.state, stream.state_transformed, k, t - (k - 1), 2 * L - k, nullptr);
    for (; next_grad < grad_rows.end && next_grad <= t - L + 2; ++next_grad)
      stream.load_row(stream.gradient[0], grad_y, next_grad, L + 1);
    if (own.contains(t - L)) {
      stream.output_row(job.net, stream.state, t - L, y);
      stream.parameter_gradients(L + 1, t - L, sums);
    }
    for (int m = 1; m <= L; ++m) {
      const int64_t row = t - (L + m - 2);
      if (!stream.rows_with(L + 1 - m).contains(row)) continue;
      stream.hidden_row(job.gradient, stream.gradient, stream.gradient_transformed, m, row, L + 1 - m,
                        &stream.state[L + 1 - m]);
      if (own.contains(row)) stream.parameter_gradients(L + 1 - m, row, sums);
    }
    if (own.contains(t - lead)) stream.output_row(job.gradient, stream.gradient, t - lead, grad_x);
  }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
