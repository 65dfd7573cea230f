// Dense block on tensor cores: level by level, or with the fused kernel for all levels.
#include "dense_block_fused_run.cuh"
#include "dense_block_mma.cuh"
#include "dense_block_mma_wgrad.cuh"

namespace ivan_fast::cuda {
namespace {

template <typename S>
struct TensorCoreKernels {
  using State = float;
  using Operand = S;
  using Layout = Fragments<S>;

  template <int kTiles>
  static void launch_level(const LevelTask<float, S>& task, int images, cudaStream_t stream) {
    using L = MmaLayer<S, kTiles>;
    launch("dense_block", mma_layer_kernel<S, kTiles>,
           level_grid(task.region, L::kRows, L::kCols, images * task.output_tiles), dim3(L::kBlock), L::kSharedBytes,
           stream, task);
  }

  static void level(const LevelTask<float, S>& task, int images, int tile_outputs, cudaStream_t stream) {
    tile_outputs == kPair ? launch_level<4>(task, images, stream) : launch_level<1>(task, images, stream);
  }

  template <int kTaps>
  static void launch_gradients(const GradientTask<float, S>& task, int nets, int splits, int items,
                               cudaStream_t stream) {
    using G = MmaGradient<S, kTaps>;
    launch("dense_block", mma_gradient_kernel<S, kTaps>, dim3(unsigned(items), unsigned(splits), unsigned(nets)),
           dim3(G::kBlock), G::kSharedBytes, stream, task);
  }

  static void gradients(const GradientTask<float, S>& task, int nets, int splits, cudaStream_t stream) {
    const int nine = task.units.nine_tap_items();
    if (nine > 0) launch_gradients<9>(task, nets, splits, nine, stream);
    launch_gradients<1>(task, nets, splits, task.units.centre_items(), stream);
  }

  using Run = DenseRun<TensorCoreKernels>;
  static bool fused_forward(const Run& run) { return FusedLaunches<Run>{run}.whole_forward(); }
  static bool fused(const Run& run, const Tile& tile, const typename Run::Outputs& to, typename Run::State& state) {
    return FusedLaunches<Run>{run}.tile_forward(tile, to, state);
  }
  static bool fused_gradients(const Run& run, const Tile& tile, const Slices<S>& mask, const UnfoldTask<float>& grad_y,
                              const Region& readable, const typename Run::Outputs& to, typename Run::State& gradient) {
    return FusedLaunches<Run>{run}.tile_gradients(tile, mask, grad_y, readable, to, gradient);
  }
};

// use(Kernels) with those of the operand.
template <typename F>
void with_kernels(DenseBlockOperand operand, F&& use) {
  switch (operand) {
    case DenseBlockOperand::kBFloat16:
      return use(TensorCoreKernels<__nv_bfloat16>());
    case DenseBlockOperand::kFloat16:
      return use(TensorCoreKernels<__half>());
    default:
      return use(TensorCoreKernels<Tf32>());
  }
}

}  // namespace

void tensor_core_forward(const DenseBlockCall& call, const DenseBlockOptions& options, void* workspace,
                         cudaStream_t stream) {
  with_kernels(options.operand, [&](auto kernels) {
    DenseRun<decltype(kernels)>(call, options, DenseBlockPass::kForward, workspace, stream).forward();
  });
}

void tensor_core_backward(const DenseBlockCall& call, const DenseBlockOptions& options, void* workspace,
                          cudaStream_t stream) {
  with_kernels(options.operand, [&](auto kernels) {
    DenseRun<decltype(kernels)>(call, options, backward_pass(call), workspace, stream).backward();
  });
}

}  // namespace ivan_fast::cuda
