// The direct convolutions' part of the stream: rows of pixels, every level summed from its sources' three rows.
//
// For 256 columns and growth 32 the forward's rings take 0.6 MB and the backward's 1.3 MB a thread, whatever the
// height. A kernel row of weights stays in L1 while a row of the image passes, so the rings may live in L2 or L3.
#pragma once

#include "dense_block_couple.h"
#include "dense_block_dot.h"
#include "dense_block_gemm.h"
#include "dense_block_wgrad.h"

namespace ivan_fast::cpu::IVAN_ISA {

template <typename T>
struct DirectStream {
  static constexpr int kRow = 1;

  const dense::Job<T>& job;
  const Schedule schedule;
  const Extent extent;
  const int L;
  const int64_t first_column, pixels;
  Part part;
  Arena<T> arena;
  Ring<T> state[dense::kMaxSources];     // x, h_1 .. h_L
  Ring<T> gradient[dense::kMaxSources];  // grad_y, then the masked gradients of h_L .. h_1
  T* scratch;                            // a row of the output level in pixel-major order
  T* output = nullptr;                   // with a coupling: a row of h [out_channels][pixels], and room to couple it
  T* couple_room = nullptr;

  DirectStream(const dense::Job<T>& job_, const dense::Tile& tile, bool backward, int index, int parts, T* workspace)
      : job(job_),
        schedule{job.net.hidden, backward, backward && job.coupling.walk != CouplingWalk::kNone},
        extent{tile, job.height, job.width, kRow},
        L(job.net.hidden),
        first_column(extent.columns_with(schedule.x_margin()).begin),
        pixels(extent.columns_with(schedule.x_margin()).end - first_column + 2),
        part{index,
             parts,
             first_column,
             pixels - 2,
             1,
             rows_with(schedule.x_margin()).begin,
             rows_with(schedule.grad_y_margin()).begin},
        arena{workspace} {
    // A row is read one row below and above its first and its last use; what is loaded comes one row earlier.
    const auto rows = [](int first, int last, bool loaded) { return last - first + 3 + loaded; };
    for (int j = 0; j <= L; ++j) {
      const int last = Schedule::at_least(schedule.last_state_use(j), j > 0 ? schedule.last_mask_use(j) - 1 : 0);
      state[j] =
          Ring<T>(arena, rows(schedule.first_state_use(j), last, j == 0), pixels, dense::source_channels(job.net, j));
    }
    for (int m = 0; backward && m <= L; ++m)
      gradient[m] = Ring<T>(arena, rows(schedule.first_gradient_use(m), schedule.last_gradient_use(), m == 0), pixels,
                            dense::source_channels(job.gradient, m));
    const int64_t widest = Part::widest(part.units, parts, part.unit);
    for (int i = 0; i < parts; ++i) {  // every part's own
      T* own_scratch = arena.take(widest * Schedule::at_least(job.net.out_width, job.gradient.out_width));
      T* own_output = arena.take(schedule.coupled ? widest * job.net.out_channels : 0);
      T* own_room = arena.take(schedule.coupled ? couple_scratch<T>(widest) : 0);
      if (i != index) continue;
      scratch = own_scratch;
      output = own_output;
      couple_room = own_room;
    }
  }

  void clear() const {
    for (int j = 0; j <= L; ++j) {
      state[j].clear(part);
      if (schedule.backward) gradient[j].clear(part);
    }
  }

  Range rows_with(int64_t margin) const { return extent.rows_with(margin); }

  T* at(const Ring<T>& ring, int64_t row, int64_t column) const {
    return ring.row(row) + (column - first_column + 1) * ring.channels;
  }

  // Pointers to the left neighbours of `column` in the three rows around `row` of the first `count` rings.
  void neighbours(const Ring<T>* rings, int count, int64_t row, int64_t column, const T* (*rows)[3]) const {
    for (int s = 0; s < count; ++s)
      for (int kh = 0; kh < 3; ++kh) {
        const int64_t r = row + kh - 1;
        rows[s][kh] = r < 0 || r >= job.height ? nullptr : at(rings[s], r, column - 1);
      }
  }

  void load(const Ring<T>& ring, const T* image, int64_t row, int64_t margin) const {
    const Range columns = part.of(extent.columns_with(margin));
    T* to = at(ring, row, columns.begin);
    load_pixels(image, int(ring.channels), extent, row, columns, to, ring.channels);
    dense::round_values(to, (columns.end - columns.begin) * ring.channels, job.rounding);
  }
  // Rows up to and with `last`, as far as the tile reaches.
  void load_x_until(int64_t last) {
    for (; part.next_x < rows_with(schedule.x_margin()).end && part.next_x <= last; ++part.next_x)
      load(state[0], job.x + extent.tile.image * job.x_batch_stride, part.next_x, schedule.x_margin());
  }
  void load_grad_y_until(int64_t last) {
    for (; part.next_grad < rows_with(schedule.grad_y_margin()).end && part.next_grad <= last; ++part.next_grad)
      load(gradient[0], job.grad_y + extent.tile.image * job.grad_y_batch_stride, part.next_grad,
           schedule.grad_y_margin());
  }

  // A row of a hidden level of a net into its ring. `mask`: the ring whose signs decide instead of the sums' own.
  void level(const dense::Net<T>& net, const Ring<T>* rings, int k, int64_t row, int margin,
             const Ring<T>* mask) const {
    const Range columns = part.of(extent.columns_with(margin));
    const int64_t count = columns.end - columns.begin;
    const T* rows[dense::kMaxSources][3];
    neighbours(rings, k, row, columns.begin, rows);
    T* out = at(rings[k], row, columns.begin);
    level_row(net, k, rows, count, mask ? Finish::kMask : Finish::kLeaky,
              mask ? at(*mask, row, columns.begin) : nullptr, job.slope, out);
    dense::round_values(out, count * net.width, job.rounding);
  }
  void hidden_row(int k, int64_t row) const { level(job.net, state, k, row, schedule.hidden_margin(k), nullptr); }
  void gradient_row(int m, int64_t row) const {
    level(job.gradient, gradient, m, row, schedule.gradient_margin(m), &state[L + 1 - m]);
  }

  // A row of the output level: channel q of the first of `columns` at to[q * stride].
  void output_level(const dense::Net<T>& net, const Ring<T>* rings, int64_t row, const Range& columns, T* to,
                    int64_t stride) const {
    const T* rows[dense::kMaxSources][3];
    neighbours(rings, L + 1, row, columns.begin, rows);
    const int64_t count = columns.end - columns.begin;
    if (net.out_dot) return output_row_dot(net, rows, count, to, stride);
    level_row(net, L + 1, rows, count, Finish::kNone, static_cast<const T*>(nullptr), job.slope, scratch);
    for (int64_t c = 0; c < net.out_channels; ++c)
      for (int64_t i = 0; i < count; ++i) to[c * stride + i] = scratch[i * net.out_width + c];
  }
  void image_row(const dense::Net<T>& net, const Ring<T>* rings, int64_t row, T* image) const {
    const int64_t plane = job.height * job.width;
    const Range columns = part.of(extent.columns_with(0));
    T* to = image + extent.tile.image * net.out_channels * plane + row * job.width + columns.begin;
    output_level(net, rings, row, columns, to, plane);
  }
  void output_row(int64_t row) const {
    if (schedule.coupled)
      output_level(job.net, state, row, part.of(extent.columns_with(schedule.output_margin())), output,
                   Part::widest(part.units, part.count, part.unit));
    else
      image_row(job.net, state, row, job.y);
  }
  void grad_x_row(int64_t row) const { image_row(job.gradient, gradient, row, job.grad_x); }

  void couple_row(int64_t row) const {
    const Range columns = part.of(extent.columns_with(schedule.output_margin()));
    T* to = at(gradient[0], row, columns.begin);
    IVAN_ISA::couple_row(job.coupling, extent.tile.image, job.net.out_channels, extent, row, columns,
                         rows_with(0).contains(row), output, Part::widest(part.units, part.count, part.unit), to,
                         job.net.out_channels, couple_room);
    dense::round_values(to, (columns.end - columns.begin) * job.net.out_channels, job.rounding);
  }

  // Parameter gradients of hidden level k from its masked gradient, of the output level from grad_y.
  void parameter_gradients(int k, int64_t row, const dense::Accumulators<T>& sums) const {
    const dense::Net<T>& net = job.net;
    const T* rows[dense::kMaxSources][3];
    const Range columns = part.of(extent.columns_with(0));
    neighbours(state, k, row, columns.begin, rows);
    const int64_t count = columns.end - columns.begin;
    const T* g = at(gradient[L + 1 - k], row, columns.begin);
    bias_gradient(g, count, gradient[L + 1 - k].channels, k <= L ? net.width : net.out_channels, sums.bias[k]);
    if (k <= L) return level_gradient(net, k, rows, g, count, sums.weights[k]);
    if (net.out_dot) return output_gradient_dot(net, rows, g, count, sums.weights[k]);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = 0; c < net.out_width; ++c)
        scratch[i * net.out_width + c] = c < net.out_channels ? g[i * net.out_channels + c] : T(0);
    level_gradient(net, k, rows, scratch, count, sums.weights[k]);
  }
};

}  // namespace ivan_fast::cpu::IVAN_ISA
