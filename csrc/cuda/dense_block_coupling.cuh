// The affine coupling between the two halves of a dense block's backward: from h and the state to the gradient of h.
#pragma once

#include "common.cuh"
#include "ivan_fast/dense_block.h"
#include "ivan_fast/scalar.h"

namespace ivan_fast::cuda {

template <typename State, typename T>
struct WalkTask {
  const State *state, *g, *grad;  // [N, inner], own batch strides; g with kForward
  std::int64_t state_stride, g_stride, grad_stride;
  const T* h;                 // [N, inner]
  T* grad_h;                  // [N, inner]
  State *out, *grad_state;    // [N, inner]
  std::int64_t inner, count;  // of a sample, of all
  State clamp;
};

// In the state's own type, which may be wider than the dense block's; only the gradient of h is rounded to that.
template <CouplingWalk walk, typename State, typename T>
__global__ void __launch_bounds__(kThreads) walk_kernel(WalkTask<State, T> task) {
  const std::int64_t step = std::int64_t(gridDim.x) * blockDim.x;
  for (std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < task.count; i += step) {
    const std::int64_t sample = i / task.inner, offset = i % task.inner;
    const State state = task.state[sample * task.state_stride + offset];
    const State grad = task.grad[sample * task.grad_stride + offset];
    const State h = static_cast<State>(task.h[i]);
    State out{}, grad_state{}, grad_h{};
    if constexpr (walk == CouplingWalk::kForward) {
      const State g = task.g[sample * task.g_stride + offset];
      coupling_element<CouplingOp::kRecomputeBackward>(state, h, g, grad, task.clamp, out, grad_state, grad_h);
    } else {
      State scaled{}, unused{};
      coupling_element<CouplingOp::kForward>(state, h, State(0), grad, task.clamp, scaled, unused, unused);
      coupling_element<CouplingOp::kInverseBackward>(state, h, State(0), grad, task.clamp, unused, grad_state, grad_h);
      out = scaled;
    }
    task.out[i] = out;
    task.grad_state[i] = grad_state;
    task.grad_h[i] = static_cast<T>(grad_h);
  }
}

template <typename State, typename T>
void walk_coupling_in(const DenseBlockCoupling& c, const DenseBlockShape& s, const T* h, T* grad_h,
                      cudaStream_t stream) {
  const std::int64_t inner = s.out_channels * s.height * s.width;
  const WalkTask<State, T> task{static_cast<const State*>(c.state.data),
                                static_cast<const State*>(c.g.data),
                                static_cast<const State*>(c.grad.data),
                                c.state.batch_stride,
                                c.g.batch_stride,
                                c.grad.batch_stride,
                                h,
                                grad_h,
                                static_cast<State*>(c.out),
                                static_cast<State*>(c.grad_state),
                                inner,
                                s.batch * inner,
                                static_cast<State>(c.clamp)};
  const dim3 blocks(blocks_for(task.count));
  if (c.walk == CouplingWalk::kForward) {
    launch("dense_block", walk_kernel<CouplingWalk::kForward, State, T>, blocks, dim3(kThreads), 0, stream, task);
  } else {
    launch("dense_block", walk_kernel<CouplingWalk::kInverse, State, T>, blocks, dim3(kThreads), 0, stream, task);
  }
}

// h and grad_h: [N, out_channels, H, W].
template <typename T>
void walk_coupling(const DenseBlockCoupling& c, const DenseBlockShape& s, const T* h, T* grad_h, cudaStream_t stream) {
  if constexpr (sizeof(T) == 4) {
    if (c.dtype == DType::kFloat32) return walk_coupling_in<float, T>(c, s, h, grad_h, stream);
  }
  walk_coupling_in<double, T>(c, s, h, grad_h, stream);
}

}  // namespace ivan_fast::cuda
