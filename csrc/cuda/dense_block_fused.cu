// Dense block on tensor cores, forward in one kernel.
#include "dense_block_fused.cuh"
#include "dense_block_kernels.cuh"
#include "dense_block_run.cuh"

namespace ivan_fast::cuda {
namespace {

template <typename S>
struct FusedKernels {
  using State = float;
  using Operand = S;
  using Layout = Fragments<S>;
};

template <typename S>
void fused_forward_in(const DenseBlockParams& p, const DenseBlockOptions& options, const FusedGeometry& geometry,
                      void* workspace, cudaStream_t stream) {
  const DenseCall<FusedKernels<S>> call(p, options, DenseBlockPass::kForward, workspace, stream);
  S* weights = call.template at<S>(call.plan.weights);
  float* bias = call.template at<float>(call.plan.bias);
  call.pack(call.packed, weights, bias);
  FusedTask<S> task{};
  task.net = call.plan.net;
  task.geometry = geometry;
  task.x_stride = p.x.batch_stride;
  task.weights = weights;
  task.bias = bias;
  for (int i = 0; i <= task.net.hidden; ++i) {
    task.offset[i] = call.packed.offset[i];
    task.bias_offset[i] = call.packed.bias_offset[i];
  }
  task.slope = static_cast<float>(p.negative_slope);
  task.operand = options.operand;
  task.height = int(p.shape.height);
  task.width = int(p.shape.width);
  constexpr std::int64_t kMaxGridZ = 65535;
  for (std::int64_t image = 0; image < p.shape.batch; image += kMaxGridZ) {
    const std::int64_t images = std::min(kMaxGridZ, p.shape.batch - image);
    task.x = static_cast<const float*>(p.x.data) + image * task.x_stride;
    task.y = static_cast<float*>(p.y) + image * p.shape.out_channels * p.shape.height * p.shape.width;
    const dim3 grid(unsigned(geometry.strips), unsigned(geometry.bands), static_cast<unsigned>(images));
    launch("dense_block", geometry.rows == 4 ? fused_kernel<S, 4> : fused_kernel<S, 2>, grid,
           dim3(unsigned(geometry.threads)), std::size_t(geometry.shared_bytes), stream, task);
  }
}

}  // namespace

void fused_forward(const DenseBlockParams& p, const DenseBlockOptions& options, const FusedGeometry& geometry,
                   void* workspace, cudaStream_t stream) {
  switch (options.operand) {
    case DenseBlockOperand::kBFloat16:
      return fused_forward_in<__nv_bfloat16>(p, options, geometry, workspace, stream);
    case DenseBlockOperand::kFloat16:
      return fused_forward_in<__half>(p, options, geometry, workspace, stream);
    default:
      return fused_forward_in<Tf32>(p, options, geometry, workspace, stream);
  }
}

}  // namespace ivan_fast::cuda
