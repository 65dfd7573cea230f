// Binding of the dense block ops on the CPU (CUDA: dense_block_cuda.cpp).
#include "dense_block_ops.h"

namespace ivan_fast {
namespace {

void parallel_for(int64_t count, void (*body)(int64_t, void*), void* context) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i, context);
  });
}

struct DenseBlockOnCpu {
  DenseBlockOnCpu(const char*, const Tensor&, const std::string&) {}
  void forward(const DenseBlockParams& params, const Tensor&) const {
    cpu::dense_block_forward(params, int(torch::stable::get_num_threads()), parallel_for);
  }
  void backward(const DenseBlockBackwardParams& params, const Tensor&) const {
    cpu::dense_block_backward(params, int(torch::stable::get_num_threads()), parallel_for);
  }
};

}  // namespace
}  // namespace ivan_fast

STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CPU, m) { ivan_fast::register_dense_block<ivan_fast::DenseBlockOnCpu>(m); }
