// The stream over one tile: which row of which level each step computes.
//
// A row is one row of pixels, or one row of Winograd tiles (`Stream::kRow` pixels high): either way a level's row r
// needs the rows r - 1, r and r + 1 of the levels before it, so level k runs one row behind level k - 1, and every
// ring holds only the rows that later steps still read. DirectStream and WinogradStream do the work.
#pragma once

#include "dense_block_plan.h"

namespace ivan_fast::cpu::IVAN_ISA {

struct Range {
  int64_t begin, end;
  bool contains(int64_t i) const { return i >= begin && i < end; }
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

template <class Stream>
static void forward_stream(Stream& stream) {
  const Schedule& at = stream.schedule;
  const Range x_rows = stream.rows_with(at.x_margin()), own = stream.rows_with(0);
  int64_t next_x = x_rows.begin;
  const int64_t first = own.begin - at.x_margin() + 1;
  for (int64_t t = first < 0 ? 0 : first; t < own.end + at.output_lag(); ++t) {
    for (; next_x < x_rows.end && next_x <= t + 1; ++next_x) stream.load_x(next_x);
    for (int k = 1; k <= at.L; ++k)
      if (stream.rows_with(at.hidden_margin(k)).contains(t - at.hidden_lag(k)))
        stream.hidden_row(k, t - at.hidden_lag(k));
    if (own.contains(t - at.output_lag())) stream.output_row(t - at.output_lag());
  }
}

// Parameter gradients are added as soon as a row's gradient is there.
template <class Stream, class Sums>
static void backward_stream(Stream& stream, const Sums& sums) {
  const Schedule& at = stream.schedule;
  const Range x_rows = stream.rows_with(at.x_margin()), grad_rows = stream.rows_with(at.grad_y_margin());
  const Range own = stream.rows_with(0), outputs = stream.rows_with(at.output_margin());
  int64_t next_x = x_rows.begin, next_grad = grad_rows.begin;
  const int64_t first = own.begin - at.x_margin() + 1;
  for (int64_t t = first < 0 ? 0 : first; t < own.end + at.grad_x_lag(); ++t) {
    for (; next_x < x_rows.end && next_x <= t + 1; ++next_x) stream.load_x(next_x);
    for (int k = 1; k <= at.L; ++k)
      if (stream.rows_with(at.hidden_margin(k)).contains(t - at.hidden_lag(k)))
        stream.hidden_row(k, t - at.hidden_lag(k));
    if (!at.coupled)
      for (; next_grad < grad_rows.end && next_grad <= t - at.grad_y_lag(); ++next_grad) stream.load_grad_y(next_grad);
    const int64_t row = t - at.output_lag();
    if (outputs.contains(row)) {
      stream.output_row(row);
      if (at.coupled) stream.couple_row(row);
      if (own.contains(row)) stream.parameter_gradients(at.L + 1, row, sums);
    }
    for (int m = 1; m <= at.L; ++m) {
      const int64_t gradient_row = t - at.gradient_lag(m);
      if (!stream.rows_with(at.gradient_margin(m)).contains(gradient_row)) continue;
      stream.gradient_row(m, gradient_row);
      if (own.contains(gradient_row)) stream.parameter_gradients(at.L + 1 - m, gradient_row, sums);
    }
    if (own.contains(t - at.grad_x_lag())) stream.grad_x_row(t - at.grad_x_lag());
  }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
