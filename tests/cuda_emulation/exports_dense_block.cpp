// The launchers of the dense block, as C functions for ctypes: integers, doubles and pointers only.
#include <cstdlib>
#include <cstring>
#include <memory>

#include "exports.h"
#include "ivan_fast/dense_block_cuda.h"

using std::int64_t;
using namespace ivan_fast;

// `sizes`: batch, in, out, growth, depth, height, width; `options`: operand, kernel, workspace limit. Without grad_y only y.
// The workspace is as large as the call asks for, and holds NaN at first; its bytes go to `used`.
EMULATION_EXPORT const char* emulated_dense_block(const int64_t* sizes, const int64_t* options, int64_t dtype,
                                                  double slope, const void* x, int64_t x_stride,
                                                  const void* const* weights, const void* const* biases, void* y,
                                                  const void* grad_y, int64_t grad_stride, void* grad_x,
                                                  void* const* grad_weights, void* const* grad_biases, int64_t* used) {
  DenseBlockParams p{};
  p.shape = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]};
  p.dtype = static_cast<DType>(dtype);
  p.negative_slope = slope;
  p.x = {x, x_stride};
  p.weights = weights;
  p.biases = biases;
  p.y = y;
  return guarded([&] {
    const cuda::DenseBlockOptions o{static_cast<cuda::DenseBlockOperand>(options[0]), options[1] != 0,
                                    static_cast<std::size_t>(options[2])};
    const bool backward = grad_y != nullptr;
    const std::size_t bytes = cuda::dense_block_workspace_bytes(p.shape, p.dtype, o, backward);
    *used = static_cast<int64_t>(bytes);
    const std::unique_ptr<void, decltype(&std::free)> workspace(std::aligned_alloc(256, bytes), &std::free);
    std::memset(workspace.get(), 0xff, bytes);
    if (!backward) return cuda::dense_block_forward(p, o, workspace.get(), nullptr);
    const DenseBlockBackwardParams b{p, {grad_y, grad_stride}, grad_x, grad_weights, grad_biases};
    cuda::dense_block_backward(b, o, workspace.get(), nullptr);
  });
}
