// The fused kernel's part of a call (dense_block_run.cuh): its launches, and where it can serve.
#pragma once

#include "dense_block_fused_task.cuh"
#include "dense_block_kernels.cuh"
#include "dense_block_run.cuh"

namespace ivan_fast::cuda {

template <typename Run>
struct FusedLaunches {
  using S = typename Run::S;
  const Run& run;

  // What all launches of a net have in common.
  FusedTask<S> task(const PackedNet& packed, const Tile& tile, const Region& strips,
                    const DenseBlockDevice& device) const {
    const bool mirrored = packed.net.mirrored;
    const std::int64_t images = std::int64_t(run.call.nets) * tile.images;
    FusedTask<S> t{};
    t.packed = packed;
    t.geometry = remembered_geometry(packed.net, images, strips.rows(), strips.cols(), int(sizeof(S)), device);
    t.images = tile.images;
    t.strips = strips;
    t.weights = run.template at<S>(mirrored ? run.plan.gradient_weights : run.plan.weights);
    t.bias = run.template at<float>(run.plan.bias);
    t.slope = static_cast<float>(run.call.negative_slope);
    t.operand = run.options.operand;
    return t;
  }

  bool possible(const DenseNet& net) const {
    return fused_is_possible(run.options, net, int(sizeof(S)), current_device());
  }

  // The nets' outputs over `own`, and hidden rows over `strips` into `hidden` where that has a place.
  void forward(const Tile& tile, const Images<float> (&to)[kMaxNets], const Region& own, const Region& strips,
               const Slices<S>& hidden) const {
    FusedTask<S> t = task(run.packed(false), tile, strips, current_device());
    for (int n = 0; n < run.call.nets; ++n) {
      t.source[n] = run.images(run.call.x, tile);
      t.image[n] = to[n];
    }
    t.readable = t.held = {0, run.height(), 0, run.width()};
    if (to[0].data != nullptr) t.own = own;  // else empty: no output is wanted
    t.hidden = hidden;
    launch_fused(t, run.call.nets, run.stream);
  }

  // A whole forward: no tiles, no workspace but for weights.
  bool whole_forward() const {
    if (!possible(run.plan.net)) return false;
    constexpr std::int64_t kMaxGridZ = 65535;
    const std::int64_t batch = run.call.shape.batch, most = kMaxGridZ / run.call.nets;
    for (std::int64_t image = 0; image < batch; image += most) {
      const Tile tile{image, int(std::min(most, batch - image)), 0, run.height(), 0, run.width()};
      const Region all = run.region(tile, 0);
      forward(tile, run.all_outputs(tile).image, all, all, {});
    }
    return true;
  }

  // The forward of a tile in a backward.
  bool tile_forward(const Tile& tile, const typename Run::Outputs& to, typename Run::State& state) const {
    if (!possible(run.plan.net)) return false;
    const int L = run.plan.net.hidden, margin = output_margin(L, run.plan.pass);
    // Masks of the gradient levels are read `L` around the tile.
    const Region strips = run.region(tile, std::max(margin, L));
    state = {run.unfold_x(tile, run.region(tile, 0)), run.hidden_slices(run.plan.hidden, strips)};
    forward(tile, to.image, run.region(tile, margin), strips, state.hidden);
    return true;
  }

  // The mirrored net over a tile: grad_x, and the hidden gradients.
  bool tile_gradients(const Tile& tile, const Slices<S>& mask, const UnfoldTask<float>& grad_y, const Region& readable,
                      const typename Run::Outputs& to, typename Run::State& gradient) const {
    if (!possible(run.plan.gradient)) return false;
    const Region own = run.region(tile, 0);
    gradient = {run.unfold(grad_y, run.template at<S>(run.plan.grad_source), own),
                run.hidden_slices(run.plan.grad_hidden, own)};
    FusedTask<S> t = task(run.packed(true), tile, own, current_device());
    for (int n = 0; n < run.call.nets; ++n) {
      t.source[n] = grad_y.from[n];
      t.image[n] = to.image[n];
    }
    t.readable = readable;
    t.own = own;
    t.hidden = gradient.hidden;
    t.mask = mask;
    t.held = run.region(tile, run.plan.net.hidden);
    launch_fused(t, run.call.nets, run.stream);
    return true;
  }
};

}  // namespace ivan_fast::cuda
