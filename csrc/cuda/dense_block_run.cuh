// The order of launches of a call, whatever kernels multiply. `Kernels` gives:
//   State, Operand   types of sums, and of slices and packed weights
//   Layout           of packed weights (dense_block_pack.cuh)
//   level(task, images, tile_outputs, stream)     one level of a net
//   gradients(task, splits, stream)               first stage of the parameters' gradients
#pragma once

#include "dense_block_coupling.cuh"
#include "dense_block_pack.cuh"
#include "dense_block_wgrad.cuh"

namespace ivan_fast::cuda {

template <typename Kernels>
struct DenseCall {
  using T = typename Kernels::State;
  using S = typename Kernels::Operand;

  const DenseBlockParams& params;
  DenseBlockOperand operand;
  DenseBlockPlan plan;
  unsigned char* workspace;
  cudaStream_t stream;
  PackTask<T> packed, packed_gradient;

  DenseCall(const DenseBlockParams& p, const DenseBlockOptions& options, DenseBlockPass pass, void* workspace_,
            cudaStream_t stream_)
      : params(p),
        operand(options.operand),
        plan(make_plan(p.shape, sizeof(S), sizeof(T), pass, options.workspace_limit)),
        workspace(static_cast<unsigned char*>(workspace_)),
        stream(stream_),
        packed(pack_task<T>(plan.net, p, operand)),
        packed_gradient(pack_task<T>(plan.gradient, p, operand)) {}

  template <typename U>
  U* at(std::size_t offset) const {
    return reinterpret_cast<U*>(workspace + offset);
  }

  void pack(const PackTask<T>& task, S* weights, T* bias) const {
    const int levels = task.net.hidden + 1;
    const unsigned blocks = blocks_for(ceil_div(task.offset[levels], levels), 256);
    launch("dense_block", pack_kernel<typename Kernels::Layout, T, S>, dim3(blocks, levels), dim3(kThreads), 0, stream,
           task, weights, bias);
  }

  // Source 0 of a net over a region of a tile's images.
  Slices<S> unfold(const Input& input, int channels, S* to, const Tile& tile, const Region& region) const {
    const DenseBlockShape& s = params.shape;
    const Slices<S> slices{to, int(ceil_div(9 * channels + 1, kSlice)), region};
    const std::int64_t items = std::int64_t(tile.images) * slices.count * region.rows() * region.cols();
    launch("dense_block", unfold_kernel<T, S>, dim3(blocks_for(items)), dim3(kThreads), 0, stream, slices,
           static_cast<const T*>(input.data) + tile.image * input.batch_stride, input.batch_stride, tile.images,
           channels, int(s.height), int(s.width), operand);
    return slices;
  }

  // Level m of the net over `margin` pixels around the tile; the output level also where `image` says.
  void level(const PackTask<T>& net, int m, const S* weights, const T* bias, const Slices<S>& source,
             const Slices<S>& hidden, const Tile& tile, int margin, const Slices<S>* mask, T* image) const {
    const DenseBlockShape& s = params.shape;
    const int slices = net.net.level_slices();
    LevelTask<T, S> task{};
    task.source = source;
    task.hidden = hidden;
    task.hidden_slices = (m - 1) * slices;
    task.weights = weights + net.offset[m - 1];
    task.bias = bias == nullptr ? nullptr : bias + net.bias_offset[m - 1];
    task.outputs = net.net.outputs(m);
    task.output_tiles = net.net.output_tiles(m);
    task.slope = static_cast<T>(params.negative_slope);
    task.operand = operand;
    task.region = region_of(tile, margin, int(s.height), int(s.width));
    task.out_slice = (m - 1) * slices;
    task.out_slices = slices;
    if (mask != nullptr) {
      task.masked = true;
      task.mask = *mask;
      task.mask_slice = (net.net.hidden - m) * slices;
    }
    if (image != nullptr) task.image = image + tile.image * task.outputs * s.height * s.width;
    task.height = int(s.height);
    task.width = int(s.width);
    Kernels::level(task, tile.images, net.net.tile_outputs(m), stream);
  }

  Slices<S> hidden_slices(std::size_t offset, const Region& region) const {
    return {at<S>(offset), plan.net.hidden * plan.net.level_slices(), region};
  }

  // The unfolded x and the hidden slices around a tile.
  struct State {
    Slices<S> source, hidden;
  };

  // As far as the backward needs them, or only y.
  State hidden_levels(const Tile& tile, bool backward) const {
    const int L = plan.net.hidden;
    const Region region = region_of(tile, halo(L, backward), int(params.shape.height), int(params.shape.width));
    const State state{unfold(params.x, plan.net.in_channels, at<S>(plan.source), tile, region),
                      hidden_slices(plan.hidden, region)};
    for (int k = 1; k <= L; ++k)
      level(packed, k, at<S>(plan.weights), at<T>(plan.bias), state.source, state.hidden, tile,
            hidden_margin(L, backward, k), nullptr, nullptr);
    return state;
  }

  void output_level(const State& state, const Tile& tile, void* y) const {
    level(packed, plan.net.hidden + 1, at<S>(plan.weights), at<T>(plan.bias), state.source, state.hidden, tile, 0,
          nullptr, static_cast<T*>(y));
  }

  void all_outputs(void* y) const {
    for (std::int64_t i = 0; i < plan.tiling.count(); ++i) {
      const Tile tile = plan.tiling.tile(i);
      output_level(hidden_levels(tile, false), tile, y);
    }
  }

  void forward() const {
    pack(packed, at<S>(plan.weights), at<T>(plan.bias));
    all_outputs(params.y);
  }

  void backward(const DenseBlockBackwardParams& p) const {
    pack(packed, at<S>(plan.weights), at<T>(plan.bias));
    pack(packed_gradient, at<S>(plan.gradient_weights), nullptr);
    const DenseBlockShape& s = params.shape;
    const std::int64_t tiles = plan.tiling.count();
    const bool coupled = p.coupling.walk != CouplingWalk::kNone;
    const Input grad_y = coupled ? Input{at<T>(plan.grad_h), s.out_channels * s.height * s.width} : p.grad_y;
    const auto walk = [&] { walk_coupling<T>(p.coupling, s, at<T>(plan.h), at<T>(plan.grad_h), stream); };
    // A gradient reaches beyond its tile: with a coupling, h must be known everywhere before it.
    if (coupled && tiles > 1) {
      all_outputs(at<T>(plan.h));
      walk();
    }
    for (std::int64_t i = 0; i < tiles; ++i) {
      const Tile tile = plan.tiling.tile(i);
      const State state = hidden_levels(tile, true);
      if (!coupled || tiles == 1) output_level(state, tile, coupled ? at<T>(plan.h) : params.y);
      if (coupled && tiles == 1) walk();
      gradients(p, tile, state, grad_y);
      reduce(p, i == 0, i + 1 == tiles);
    }
  }

  // grad_x of a tile, and the partial sums of its parameters' gradients.
  void gradients(const DenseBlockBackwardParams& p, const Tile& tile, const State& state, const Input& grad_y) const {
    const DenseBlockShape& s = params.shape;
    const int L = plan.net.hidden;
    const Region region = region_of(tile, L, int(s.height), int(s.width));
    const Slices<S> grad_source = unfold(grad_y, plan.gradient.in_channels, at<S>(plan.grad_source), tile, region);
    const Slices<S> grad_hidden = hidden_slices(plan.grad_hidden, region);
    for (int m = 1; m <= L + 1; ++m)
      level(packed_gradient, m, at<S>(plan.gradient_weights), nullptr, grad_source, grad_hidden, tile,
            gradient_margin(L, m), m <= L ? &state.hidden : nullptr, m <= L ? nullptr : static_cast<T*>(p.grad_x));
    const GradientTask<T, S> task{state.source,       state.hidden,
                                  grad_source,        grad_hidden,
                                  GradientUnits(s),   plan.net.level_slices(),
                                  tile.images,        region_of(tile, 0, int(s.height), int(s.width)),
                                  at<T>(plan.partial)};
    Kernels::gradients(task, plan.splits, stream);
  }

  void reduce(const DenseBlockBackwardParams& p, bool first, bool last) const {
    ReduceTask<T> task{
        plan.net, GradientUnits(params.shape), at<T>(plan.partial), plan.splits, at<double>(plan.sums), first, last, {},
        {}};
    for (int i = 0; i <= plan.net.hidden; ++i) {
      task.grad_weights[i] = static_cast<T*>(p.grad_weights[i]);
      task.grad_biases[i] = static_cast<T*>(p.grad_biases[i]);
    }
    const int levels = plan.net.hidden + 1;
    const std::int64_t largest =
        plan.net.growth * 9 * (plan.net.in_channels + std::int64_t(plan.net.hidden) * plan.net.growth);
    launch("dense_block", reduce_kernel<T>, dim3(blocks_for(largest, 256), levels), dim3(kThreads), 0, stream, task);
  }
};

inline dim3 level_grid(const Region& region, int rows, int cols, int z) {
  return dim3(unsigned(ceil_div(region.cols(), cols)), unsigned(ceil_div(region.rows(), rows)), unsigned(z));
}

}  // namespace ivan_fast::cuda
