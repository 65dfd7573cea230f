// The order of launches of a call, whatever kernels multiply. `Kernels` gives:
//   State, Operand   types of sums, and of slices and packed weights
//   Layout           of packed weights (dense_block_pack.cuh)
//   level(task, images, tile_outputs, stream)     one level of all nets; `images` of all nets together
//   gradients(task, nets, splits, stream)         first stage of the parameters' gradients
//   fused_forward(run), fused(run, ...), fused_gradients(run, ...)
//                    all levels in one launch; false where that is not possible or not wanted
#pragma once

#include "dense_block_coupling.cuh"
#include "dense_block_pack.cuh"
#include "dense_block_wgrad.cuh"

namespace ivan_fast::cuda {

template <typename Kernels>
struct DenseRun {
  using T = typename Kernels::State;
  using S = typename Kernels::Operand;

  const DenseBlockCall& call;
  DenseBlockOptions options;
  DenseBlockPlan plan;
  unsigned char* workspace;
  cudaStream_t stream;

  DenseRun(const DenseBlockCall& c, const DenseBlockOptions& o, DenseBlockPass pass, void* workspace_,
           cudaStream_t stream_)
      : call(c),
        options(o),
        plan(make_plan(c.shape, c.nets, sizeof(S), sizeof(T), pass, o.workspace_limit)),
        workspace(static_cast<unsigned char*>(workspace_)),
        stream(stream_) {}

  const PackedNet& packed(bool mirrored) const { return mirrored ? plan.packed_gradient : plan.packed; }
  int height() const { return int(call.shape.height); }
  int width() const { return int(call.shape.width); }

  template <typename U>
  U* at(std::size_t offset) const {
    return reinterpret_cast<U*>(workspace + offset);
  }

  Region region(const Tile& tile, int margin) const { return region_of(tile, margin, height(), width()); }

  // Images of a tile, of tensors as whole as the call's; `data` is that of image 0, or null.
  template <typename U>
  Images<U> images(U* data, std::int64_t batch_stride, const Tile& tile) const {
    return whole_images(data == nullptr ? data : data + tile.image * batch_stride, batch_stride, height(), width());
  }
  Images<const T> images(const Input& input, const Tile& tile) const {
    return images(static_cast<const T*>(input.data), input.batch_stride, tile);
  }
  Images<T> images(void* output, std::int64_t channels, const Tile& tile) const {
    return images(static_cast<T*>(output), channels * height() * width(), tile);
  }
  // Images of net n of a part of the workspace, around a tile.
  Images<T> part(std::size_t offset, int n, int channels, const Tile& tile, const Region& around) const {
    const std::int64_t net = std::int64_t(tile.images) * channels * around.rows() * around.cols();
    return part_images(at<T>(offset) + n * net, channels, around);
  }

  void pack(bool mirrored) const {
    PackTask<T, S> task{};
    task.nets = call.nets;
    for (int n = 0; n < call.nets; ++n)
      for (int i = 0; i <= plan.net.hidden; ++i) {
        task.weights[n][i] = static_cast<const T*>(call.net[n].weights[i]);
        task.biases[n][i] = static_cast<const T*>(call.net[n].biases[i]);
      }
    task.packed[0] = plan.packed;
    task.packed[1] = plan.packed_gradient;
    task.to[0] = at<S>(plan.weights);
    task.to[1] = at<S>(plan.gradient_weights);
    task.bias = at<T>(plan.bias);
    task.operand = options.operand;
    const int levels = plan.net.hidden + 1;
    const std::int64_t most = std::max(plan.packed.elements(), plan.packed_gradient.elements());
    const unsigned blocks = blocks_for(ceil_div(most, levels), 256);
    launch("dense_block", pack_kernel<typename Kernels::Layout, T, S>, dim3(blocks, levels, call.nets * (1 + mirrored)),
           dim3(kThreads), 0, stream, task);
  }

  // Source 0 of nets over a region of a tile's images.
  Slices<S> unfold(UnfoldTask<T> task, S* data, const Region& around) const {
    const Slices<S> slices{data, int(ceil_div(9 * task.channels + 1, kSlice)), around};
    task.height = height();
    task.width = width();
    task.operand = options.operand;
    const std::int64_t pixels = std::int64_t(around.rows()) * around.cols();
    const std::int64_t items = std::int64_t(task.nets) * task.images * slices.count * pixels;
    launch("dense_block", unfold_kernel<T, S>, dim3(blocks_for(items)), dim3(kThreads), 0, stream, slices, task);
    return slices;
  }
  Slices<S> unfold_x(const Tile& tile, const Region& around) const {
    return unfold({{images(call.x, tile)}, 1, tile.images, plan.net.in_channels, 0, 0, {}}, at<S>(plan.source), around);
  }

  Slices<S> hidden_slices(std::size_t offset, const Region& around) const {
    return {at<S>(offset), plan.net.hidden * plan.net.level_slices(), around};
  }

  // The unfolded x and the hidden slices around a tile.
  struct State {
    Slices<S> source, hidden;
  };
  struct Outputs {
    Images<T> image[kMaxNets];
  };

  // What every level of a net has in common.
  LevelTask<T, S> level_task(const Tile& tile, const Slices<S>& source, const Slices<S>& hidden, bool mirrored) const {
    LevelTask<T, S> task{};
    task.images = tile.images;
    task.source = source;
    task.shared_source = !mirrored;
    task.hidden = hidden;
    task.weights_stride = packed(mirrored).elements();
    task.bias_stride = packed(mirrored).bias_elements();
    task.slope = static_cast<T>(call.negative_slope);
    task.operand = options.operand;
    return task;
  }

  // Level m of it over `margin` pixels around the tile.
  void level(LevelTask<T, S> task, int m, const Tile& tile, int margin, bool mirrored) const {
    const PackedNet& p = packed(mirrored);
    const int slices = p.net.level_slices();
    task.weights = at<S>(mirrored ? plan.gradient_weights : plan.weights) + p.offset[m - 1];
    task.bias = mirrored ? nullptr : at<T>(plan.bias) + p.bias_offset[m - 1];
    task.hidden_slices = (m - 1) * slices;
    task.outputs = p.net.outputs(m);
    task.output_tiles = p.net.output_tiles(m);
    task.region = region(tile, margin);
    task.out_slice = (m - 1) * slices;
    task.out_slices = slices;
    task.mask_slice = (p.net.hidden - m) * slices;
    task.is_output = m > p.net.hidden;
    task.masked = task.masked && !task.is_output;
    Kernels::level(task, call.nets * tile.images, p.net.tile_outputs(m), stream);
  }

  // The nets' outputs, output_margin around the tile, and what the backward needs of the levels before.
  State forward(const Tile& tile, const Outputs& to) const {
    State state;
    if (Kernels::fused(*this, tile, to, state)) return state;
    const int L = plan.net.hidden;
    const Region around = region(tile, halo(L, plan.pass));
    state = {unfold_x(tile, around), hidden_slices(plan.hidden, around)};
    LevelTask<T, S> task = level_task(tile, state.source, state.hidden, false);
    for (int n = 0; n < call.nets; ++n) task.image[n] = to.image[n];
    const bool wanted = to.image[0].data != nullptr;
    for (int m = 1; m <= L + wanted; ++m) level(task, m, tile, level_margin(L, plan.pass, m), false);
    return state;
  }

  Outputs all_outputs(const Tile& tile) const {
    Outputs to{};
    for (int n = 0; n < call.nets; ++n) to.image[n] = images(call.net[n].y, plan.net.out_channels, tile);
    return to;
  }

  void forward() const {
    pack(false);
    if (Kernels::fused_forward(*this)) return;
    for (std::int64_t i = 0; i < plan.tiling.count(); ++i) {
      const Tile tile = plan.tiling.tile(i);
      forward(tile, all_outputs(tile));
    }
  }

  void backward() const {
    pack(true);
    const std::int64_t tiles = plan.tiling.count();
    for (std::int64_t i = 0; i < tiles; ++i) {
      const Tile tile = plan.tiling.tile(i);
      UnfoldTask<T> grad_y{{}, call.nets, tile.images, plan.gradient.in_channels, 0, 0, {}};
      Region readable{0, height(), 0, width()};  // of it
      State state;
      if (plan.pass == DenseBlockPass::kCoupledBackward) {
        const Region around = readable = region(tile, output_margin(plan.net.hidden, plan.pass));
        WalkNets<T> walk{call.nets, {}, {}};
        Outputs to{};
        for (int n = 0; n < call.nets; ++n) {
          to.image[n] = walk.output[n] = part(plan.outputs, n, plan.net.out_channels, tile, around);
          walk.gradient[n] = part(plan.gradients, n, plan.net.out_channels, tile, around);
          grad_y.from[n] = read_only(walk.gradient[n]);
        }
        state = forward(tile, to);
        walk_coupling(call.coupling, call.shape, walk, tile, around, stream);
      } else {
        state = forward(tile, all_outputs(tile));
        for (int n = 0; n < call.nets; ++n) grad_y.from[n] = images(call.net[n].grad_y, tile);
      }
      gradients(tile, state, grad_y, readable);
      reduce(i == 0, i + 1 == tiles);
    }
  }

  // grad_x of a tile, and the partial sums of its parameters' gradients.
  void gradients(const Tile& tile, const State& state, const UnfoldTask<T>& grad_y, const Region& readable) const {
    const int L = plan.net.hidden, channels = plan.net.in_channels;
    const Region own = region(tile, 0);
    const Images<T> grad_x = images(call.grad_x, channels, tile);
    Outputs to{{grad_x}};
    if (call.nets > 1)
      for (int n = 0; n < call.nets; ++n) to.image[n] = part(plan.grad_x, n, channels, tile, own);
    State gradient;
    if (!Kernels::fused_gradients(*this, tile, state.hidden, grad_y, readable, to, gradient)) {
      const Region around = region(tile, L);
      gradient = {unfold(grad_y, at<S>(plan.grad_source), around), hidden_slices(plan.grad_hidden, around)};
      LevelTask<T, S> task = level_task(tile, gradient.source, gradient.hidden, true);
      task.masked = true;
      task.mask = state.hidden;
      for (int n = 0; n < call.nets; ++n) task.image[n] = to.image[n];
      for (int m = 1; m <= L + 1; ++m) level(task, m, tile, gradient_margin(L, m), true);
    }
    if (call.nets > 1)
      launch("dense_block", add_kernel<T>, dim3(blocks_for(own, tile.images, channels)), dim3(kThreads), 0, stream,
             grad_x, read_only(to.image[0]), read_only(to.image[1]), own, tile.images, channels);
    const GradientTask<T, S> task{state.source,
                                  state.hidden,
                                  gradient.source,
                                  gradient.hidden,
                                  GradientUnits(call.shape),
                                  plan.net.level_slices(),
                                  tile.images,
                                  own,
                                  at<T>(plan.partial)};
    Kernels::gradients(task, call.nets, plan.splits, stream);
  }

  void reduce(bool first, bool last) const {
    ReduceTask<T> task{plan.net,
                       GradientUnits(call.shape),
                       at<T>(plan.partial),
                       plan.splits,
                       at<double>(plan.sums),
                       plan.parameters,
                       first,
                       last,
                       {},
                       {}};
    for (int n = 0; n < call.nets; ++n)
      for (int i = 0; i <= plan.net.hidden; ++i) {
        task.grad_weights[n][i] = static_cast<T*>(call.net[n].grad_weights[i]);
        task.grad_biases[n][i] = static_cast<T*>(call.net[n].grad_biases[i]);
      }
    const int levels = plan.net.hidden + 1;
    const std::int64_t largest =
        plan.net.growth * 9 * (plan.net.in_channels + std::int64_t(plan.net.hidden) * plan.net.growth);
    launch("dense_block", reduce_kernel<T>, dim3(blocks_for(largest, 256), levels, call.nets), dim3(kThreads), 0,
           stream, task);
  }
};

inline dim3 level_grid(const Region& region, int rows, int cols, int z) {
  return dim3(unsigned(ceil_div(region.cols(), cols)), unsigned(ceil_div(region.rows(), rows)), unsigned(z));
}

}  // namespace ivan_fast::cuda
