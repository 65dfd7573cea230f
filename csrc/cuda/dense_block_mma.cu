// Dense block on tensor cores, level by level.
#include "dense_block_kernels.cuh"
#include "dense_block_mma.cuh"
#include "dense_block_mma_wgrad.cuh"
#include "dense_block_run.cuh"

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
  static void launch_gradients(const GradientTask<float, S>& task, int splits, int items, cudaStream_t stream) {
    using G = MmaGradient<S, kTaps>;
    launch("dense_block", mma_gradient_kernel<S, kTaps>, dim3(unsigned(items), unsigned(splits)), dim3(G::kBlock),
           G::kSharedBytes, stream, task);
  }

  static void gradients(const GradientTask<float, S>& task, int splits, cudaStream_t stream) {
    const int nine = task.units.nine_tap_items();
    if (nine > 0) launch_gradients<9>(task, splits, nine, stream);
    launch_gradients<1>(task, splits, task.units.centre_items(), stream);
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

void tensor_core_forward(const DenseBlockParams& p, const DenseBlockOptions& options, void* workspace,
                         cudaStream_t stream) {
  with_kernels(options.operand, [&](auto kernels) {
    DenseCall<decltype(kernels)>(p, options, DenseBlockPass::kForward, workspace, stream).forward();
  });
}

void tensor_core_backward(const DenseBlockBackwardParams& p, const DenseBlockOptions& options, void* workspace,
                          cudaStream_t stream) {
  with_kernels(options.operand, [&](auto kernels) {
    DenseCall<decltype(kernels)>(p.forward, options, backward_pass(p), workspace, stream).backward(p);
  });
}

}  // namespace ivan_fast::cuda
