// The stream over one tile: which row of which level each step computes.
//
// A row is one row of pixels, or one row of Winograd tiles (`Stream::kRow` pixels high): either way a level's row r
// needs the rows r - 1, r and r + 1 of the levels before it, so level k runs one row behind level k - 1, and every
// ring holds only the rows that later steps still read. DirectStream and WinogradStream do the work.
#pragma once

#include "dense_block_plan.h"
#include "dense_block_team.h"

namespace ivan_fast::cpu::IVAN_ISA {

struct Range {
  int64_t begin, end;
  bool contains(int64_t i) const { return i >= begin && i < end; }
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

// Where every level stands at step t and how far its rows and columns reach beyond the tile. L hidden levels; the
// gradient of hidden level L + 1 - m is level m of the mirrored net. A lag of n: the row at step t is t - n.
struct Schedule {
  int L;
  bool backward, coupled;

  int hidden_lag(int k) const { return k - 1; }
  int output_lag() const { return L; }
  // grad_y from outside is loaded two rows ahead of the output, from a coupling it is there with the output.
  int grad_y_lag() const { return coupled ? L : L - 2; }
  int gradient_lag(int m) const { return grad_y_lag() + m; }
  int grad_x_lag() const { return at_least(gradient_lag(L + 1), 0); }
  // From the middle row of the first use of source j of either net to that of its last.
  int first_state_use(int j) const { return j; }
  int last_state_use(int j) const { return backward && j < L ? at_least(L, gradient_lag(L - j)) : L; }
  int first_gradient_use(int m) const { return gradient_lag(m + 1); }
  int last_gradient_use() const { return grad_x_lag(); }
  // The mask of h_k, where there is one.
  int last_mask_use(int k) const { return backward ? gradient_lag(L + 1 - k) : k - 1; }

  int output_margin() const { return coupled ? L + 1 : 0; }
  int hidden_margin(int k) const {
    const int base = coupled ? L + 1 : backward ? L - 1 : 0;
    return base + L + 1 - k;
  }
  int x_margin() const { return (L > 0 ? hidden_margin(1) : output_margin()) + 1; }
  int gradient_margin(int m) const { return L + 1 - m; }
  int grad_y_margin() const { return L + 1; }

  static int at_least(int a, int b) { return a > b ? a : b; }
};

// The streams of one worker, one for each of its parts, and the others' beside them.
template <class Stream>
struct Streams {
  Stream* begin_;
  Stream* end_;
  dense::Team* team;

  Stream* begin() const { return begin_; }
  Stream* end() const { return end_; }
  Stream& front() const { return *begin_; }

  // Runs a phase in every part; all of them, also the other workers', end it before any goes on.
  template <typename F>
  void phase(F&& run) const {
    for (Stream& stream : *this) run(stream);
    if (team) team->wait();
  }
  template <typename F>
  void phase_if(bool active, F&& run) const {
    phase([&](Stream& stream) {
      if (active) run(stream);
    });
  }
};

template <class Stream>
static void forward_stream(const Streams<Stream>& streams) {
  const Schedule at = streams.front().schedule;
  const Extent extent = streams.front().extent;
  const Range own = extent.rows_with(0);
  const int64_t first = own.begin - at.x_margin() + 1, start = first < 0 ? 0 : first;
  streams.phase([](Stream& stream) { stream.clear(); });
  streams.phase([&](Stream& stream) { stream.load_x_until(start + 1); });
  for (int64_t t = start; t < own.end + at.output_lag(); ++t) {
    for (Stream& stream : streams) stream.load_x_until(t + 2);
    for (int k = 1; k <= at.L; ++k) {
      const int64_t row = t - at.hidden_lag(k);
      streams.phase_if(extent.rows_with(at.hidden_margin(k)).contains(row),
                       [&](Stream& stream) { stream.hidden_row(k, row); });
    }
    const int64_t row = t - at.output_lag();
    streams.phase_if(own.contains(row), [&](Stream& stream) { stream.output_row(row); });
  }
}

// Parameter gradients are added as soon as a row's gradient is there; sums[part].
template <class Stream, class Sums>
static void backward_stream(const Streams<Stream>& streams, const Sums* sums) {
  const Schedule at = streams.front().schedule;
  const Extent extent = streams.front().extent;
  const Range own = extent.rows_with(0), outputs = extent.rows_with(at.output_margin());
  const int64_t first = own.begin - at.x_margin() + 1, start = first < 0 ? 0 : first;
  streams.phase([](Stream& stream) { stream.clear(); });
  streams.phase([&](Stream& stream) {
    stream.load_x_until(start + 1);
    if (!at.coupled) stream.load_grad_y_until(start - at.grad_y_lag());
  });
  for (int64_t t = start; t < own.end + at.grad_x_lag(); ++t) {
    for (Stream& stream : streams) {
      stream.load_x_until(t + 2);
      if (!at.coupled) stream.load_grad_y_until(t - at.grad_y_lag() + 1);
    }
    for (int k = 1; k <= at.L; ++k) {
      const int64_t row = t - at.hidden_lag(k);
      streams.phase_if(extent.rows_with(at.hidden_margin(k)).contains(row),
                       [&](Stream& stream) { stream.hidden_row(k, row); });
    }
    const int64_t row = t - at.output_lag();
    streams.phase_if(outputs.contains(row), [&](Stream& stream) {
      stream.output_row(row);
      if (at.coupled) stream.couple_row(row);
      if (own.contains(row)) stream.parameter_gradients(at.L + 1, row, sums[stream.part.index]);
    });
    for (int m = 1; m <= at.L; ++m) {
      const int64_t gradient_row = t - at.gradient_lag(m);
      streams.phase_if(extent.rows_with(at.gradient_margin(m)).contains(gradient_row), [&](Stream& stream) {
        stream.gradient_row(m, gradient_row);
        if (own.contains(gradient_row)) stream.parameter_gradients(at.L + 1 - m, gradient_row, sums[stream.part.index]);
      });
    }
    const int64_t last_row = t - at.grad_x_lag();
    streams.phase_if(own.contains(last_row), [&](Stream& stream) { stream.grad_x_row(last_row); });
  }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
