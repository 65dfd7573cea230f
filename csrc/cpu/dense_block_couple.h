// The affine coupling inside the backward of its subnet H: a row of h becomes a row of the gradient of h, and of the
// coupled half of the state and its gradient (scalar.h has the formulas).
#pragma once

#include "dense_block_ring.h"
#include "ivan_fast/scalar.h"

namespace ivan_fast::cpu::IVAN_ISA {

// Elements of T that `couple_pixels` needs for `count` pixels.
template <typename T>
static int64_t couple_scratch(int64_t count) {
  return 3 * count * int64_t(sizeof(double) / sizeof(T));
}

// One channel of one row of pixels. The halo around `own` columns, and rows not owned, only give grad_h.
template <CouplingOp op, typename S, typename T>
static void couple_pixels(const DenseBlockCoupling& c, int64_t image, int64_t channels, int64_t channel,
                          const Extent& extent, int64_t row, const Range& columns, bool own_row, const T* h, T* grad_h,
                          int64_t grad_h_stride, T* scratch) {
  const int64_t at = (channel * extent.height + row) * extent.width, plane = extent.height * extent.width;
  const int64_t count = columns.end - columns.begin;
  const S* state = static_cast<const S*>(c.state.data) + image * c.state.batch_stride + at + columns.begin;
  const S* g = c.g.data ? static_cast<const S*>(c.g.data) + image * c.g.batch_stride + at + columns.begin : nullptr;
  const S* grad = static_cast<const S*>(c.grad.data) + image * c.grad.batch_stride + at + columns.begin;
  S* __restrict out = reinterpret_cast<S*>(scratch);
  S* __restrict grad_state = out + count;
  S* __restrict gradient = grad_state + count;
  const S clamp = S(c.clamp);
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (op == CouplingOp::kRecomputeBackward) {
      coupling_element<op>(state[i], S(h[i]), g[i], grad[i], clamp, out[i], grad_state[i], gradient[i]);
    } else {
      S unused;
      coupling_element<CouplingOp::kForward>(state[i], S(h[i]), S(0), S(0), clamp, out[i], unused, unused);
      coupling_element<CouplingOp::kInverseBackward>(state[i], S(h[i]), S(0), grad[i], clamp, unused, grad_state[i],
                                                     gradient[i]);
    }
  }
  for (int64_t i = 0; i < count; ++i) grad_h[i * grad_h_stride] = T(gradient[i]);
  if (!own_row) return;
  const int64_t to = image * channels * plane + at;
  const Range own = Extent::within(extent.tile.col0, extent.tile.col1, columns.end);
  for (int64_t i = own.begin > columns.begin ? own.begin : columns.begin; i < own.end; ++i) {
    static_cast<S*>(c.out)[to + i] = out[i - columns.begin];
    static_cast<S*>(c.grad_state)[to + i] = grad_state[i - columns.begin];
  }
}

// h: [channels][rows of h_stride values]; `row` is a row of pixels.
template <typename T>
static void couple_row(const DenseBlockCoupling& c, int64_t image, int channels, const Extent& extent, int64_t row,
                       const Range& columns, bool own_row, const T* h, int64_t h_stride, T* grad_h,
                       int64_t grad_h_stride, T* scratch) {
  for (int q = 0; q < channels; ++q) {
    const auto run = [&](auto* function) {
      function(c, image, channels, q, extent, row, columns, own_row, h + q * h_stride, grad_h + q, grad_h_stride,
               scratch);
    };
    const bool forward = c.walk == CouplingWalk::kForward;
    if (c.dtype == DType::kFloat64)
      run(forward ? couple_pixels<CouplingOp::kRecomputeBackward, double, T>
                  : couple_pixels<CouplingOp::kInverseBackward, double, T>);
    else if constexpr (sizeof(T) == 4)
      run(forward ? couple_pixels<CouplingOp::kRecomputeBackward, float, T>
                  : couple_pixels<CouplingOp::kInverseBackward, float, T>);
  }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
