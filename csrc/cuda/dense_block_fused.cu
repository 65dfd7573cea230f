// All levels of a net on tensor cores in one kernel.
#include "dense_block_fused.cuh"
#include "dense_block_kernels.cuh"

namespace ivan_fast::cuda {
namespace {

template <typename S, bool kMirrored>
void launch_rows(const FusedTask<S>& task, dim3 grid, cudaStream_t stream) {
  const FusedGeometry& g = task.geometry;
  launch("dense_block", g.rows == 4 ? fused_kernel<S, 4, kMirrored> : fused_kernel<S, 2, kMirrored>, grid,
         dim3(unsigned(g.threads)), std::size_t(g.shared_bytes), stream, task);
}

}  // namespace

template <typename S>
void launch_fused(const FusedTask<S>& task, int nets, cudaStream_t stream) {
  const dim3 grid(unsigned(task.geometry.strips), unsigned(task.geometry.bands), unsigned(nets * task.images));
  if (task.packed.net.mirrored) {
    launch_rows<S, true>(task, grid, stream);
  } else {
    launch_rows<S, false>(task, grid, stream);
  }
}

template void launch_fused(const FusedTask<__nv_bfloat16>& task, int nets, cudaStream_t stream);
template void launch_fused(const FusedTask<__half>& task, int nets, cudaStream_t stream);
template void launch_fused(const FusedTask<Tf32>& task, int nets, cudaStream_t stream);

}  // namespace ivan_fast::cuda
