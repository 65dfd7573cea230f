// The launchers of the dense block, as C functions for ctypes: integers, doubles and pointers only.
#include <cstdlib>
#include <cstring>
#include <memory>

#include "exports.h"
#include "ivan_fast/dense_block_cuda.h"

using std::int64_t;
using namespace ivan_fast;

// `sizes`: batch, in, out, growth, depth, height, width; `options`: operand, kernel, workspace limit, pass, walk, dtype
// of the coupling, nets, batch strides of state, g and grad. Of every list of parameters or gradients, those of the
// first net come first; `y` and `grad_y` are [net]. The workspace is as large as the call asks for, and holds NaN at
// first; its bytes go to `used`.
EMULATION_EXPORT const char* emulated_dense_block(const int64_t* sizes, const int64_t* options, int64_t dtype,
                                                  double slope, const void* x, int64_t x_stride,
                                                  const void* const* weights, const void* const* biases, void* const* y,
                                                  const void* const* grad_y, int64_t grad_stride, void* grad_x,
                                                  void* const* grad_weights, void* const* grad_biases, int64_t* used,
                                                  double clamp, const void* state, const void* g, const void* grad,
                                                  void* out, void* grad_state) {
  cuda::DenseBlockCall call{};
  call.shape = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]};
  call.dtype = static_cast<DType>(dtype);
  call.negative_slope = slope;
  call.x = {x, x_stride};
  call.nets = static_cast<int>(options[6]);
  const int64_t depth = sizes[4];
  for (int64_t n = 0; n < call.nets; ++n)
    call.net[n] = {weights + n * depth,      biases + n * depth,       y[n],
                   {grad_y[n], grad_stride}, grad_weights + n * depth, grad_biases + n * depth};
  call.grad_x = grad_x;
  call.coupling = {static_cast<CouplingWalk>(options[4]),
                   static_cast<DType>(options[5]),
                   clamp,
                   {state, options[7]},
                   {g, options[8]},
                   {grad, options[9]},
                   out,
                   grad_state};
  return guarded([&] {
    const cuda::DenseBlockOptions o{static_cast<cuda::DenseBlockOperand>(options[0]), options[1] != 0,
                                    static_cast<std::size_t>(options[2])};
    const auto pass = static_cast<cuda::DenseBlockPass>(options[3]);
    const std::size_t bytes = cuda::dense_block_workspace_bytes(call.shape, call.nets, call.dtype, o, pass);
    *used = static_cast<int64_t>(bytes);
    const std::unique_ptr<void, decltype(&std::free)> workspace(std::aligned_alloc(256, bytes), &std::free);
    std::memset(workspace.get(), 0xff, bytes);
    if (pass == cuda::DenseBlockPass::kForward) return cuda::dense_block_forward(call, o, workspace.get(), nullptr);
    cuda::dense_block_backward(call, o, workspace.get(), nullptr);
  });
}
