// The affine coupling between the two halves of a dense block's backward: from h and the state to the gradient of h.
#pragma once

#include "dense_block_slices.cuh"
#include "ivan_fast/dense_block.h"
#include "ivan_fast/scalar.h"

namespace ivan_fast::cuda {

// Over a region of some images: H's output, and G's where the call has it, to their gradients there. The state beyond
// `own` is not written: neighbouring tiles read what they overlap.
template <typename State, typename T>
struct WalkTask {
  Images<const State> state, g, grad;  // g with kForward, where local_g is null
  Images<const T> h, local_g;
  Images<T> grad_h, grad_g;  // grad_g where local_g is given
  Images<State> out, grad_state;
  Region region, own;
  int images, channels;
  State clamp;
};

// In the state's own type, which may be wider than the dense block's; only gradients of h and g are rounded to that.
template <CouplingWalk walk, typename State, typename T>
__global__ void __launch_bounds__(kThreads) walk_kernel(WalkTask<State, T> task) {
  const bool both = task.local_g.data != nullptr;
  for_each_value(task.region, task.images, task.channels, [&](int image, int channel, int row, int col) {
    const State state = *task.state.at(image, channel, row, col);
    const State grad = *task.grad.at(image, channel, row, col);
    const State h = static_cast<State>(*task.h.at(image, channel, row, col));
    State g = both ? static_cast<State>(*task.local_g.at(image, channel, row, col)) : State(0);
    State out{}, grad_state{}, grad_h{}, grad_g{};
    if constexpr (walk == CouplingWalk::kForward) {
      if (!both) g = *task.g.at(image, channel, row, col);
      coupling_element<CouplingOp::kRecomputeBackward>(state, h, g, grad, task.clamp, out, grad_state, grad_h);
      grad_g = grad;
    } else {
      State unused{}, also_unused{};
      coupling_element<CouplingOp::kForward>(state, h, g, grad, task.clamp, out, unused, also_unused);
      coupling_element<CouplingOp::kInverseBackward>(state, h, State(0), grad, task.clamp, unused, grad_state, grad_h);
      grad_g = -grad_state;
    }
    *task.grad_h.at(image, channel, row, col) = static_cast<T>(grad_h);
    if (both) *task.grad_g.at(image, channel, row, col) = static_cast<T>(grad_g);
    if (!task.own.contains(row, col)) return;
    *task.out.at(image, channel, row, col) = out;
    *task.grad_state.at(image, channel, row, col) = grad_state;
  });
}

// Outputs of the nets around a tile, [net], and where their gradients go.
template <typename T>
struct WalkNets {
  int nets;
  Images<T> output[kMaxNets], gradient[kMaxNets];
};

template <typename State, typename T>
void walk_coupling_in(const DenseBlockCoupling& c, const DenseBlockShape& s, const WalkNets<T>& nets, const Tile& tile,
                      const Region& region, cudaStream_t stream) {
  const int height = int(s.height), width = int(s.width);
  const auto input = [&](const Input& from) {
    const State* data = static_cast<const State*>(from.data);
    return whole_images(data == nullptr ? data : data + tile.image * from.batch_stride, from.batch_stride, height,
                        width);
  };
  const auto output = [&](void* to) {
    const std::int64_t stride = s.out_channels * s.height * s.width;
    return whole_images(static_cast<State*>(to) + tile.image * stride, stride, height, width);
  };
  const int h = nets.nets - 1;
  WalkTask<State, T> task{};
  task.state = input(c.state);
  task.g = input(c.g);
  task.grad = input(c.grad);
  task.h = read_only(nets.output[h]);
  task.grad_h = nets.gradient[h];
  if (h > 0) {
    task.local_g = read_only(nets.output[0]);
    task.grad_g = nets.gradient[0];
  }
  task.out = output(c.out);
  task.grad_state = output(c.grad_state);
  task.region = region;
  task.own = {tile.row0, tile.row1, tile.col0, tile.col1};
  task.images = tile.images;
  task.channels = int(s.out_channels);
  task.clamp = static_cast<State>(c.clamp);
  const dim3 blocks(blocks_for(region, task.images, task.channels));
  if (c.walk == CouplingWalk::kForward) {
    launch("dense_block", walk_kernel<CouplingWalk::kForward, State, T>, blocks, dim3(kThreads), 0, stream, task);
  } else {
    launch("dense_block", walk_kernel<CouplingWalk::kInverse, State, T>, blocks, dim3(kThreads), 0, stream, task);
  }
}

template <typename T>
void walk_coupling(const DenseBlockCoupling& c, const DenseBlockShape& s, const WalkNets<T>& nets, const Tile& tile,
                   const Region& region, cudaStream_t stream) {
  if constexpr (sizeof(T) == 4) {
    if (c.dtype == DType::kFloat32) return walk_coupling_in<float, T>(c, s, nets, tile, region, stream);
  }
  walk_coupling_in<double, T>(c, s, nets, tile, region, stream);
}

}  // namespace ivan_fast::cuda
