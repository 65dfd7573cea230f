// Affine coupling on CUDA: one kernel for the five ops, each operand read or written once, 16 bytes at a time where the
// boundaries of all operands agree.
#include "ivan_fast/coupling.h"
#include "ivan_fast/cuda_info.h"
#include "pointwise.cuh"

namespace ivan_fast::cuda {
namespace {

template <typename T>
struct Operands {
  const T *state, *h, *g, *grad;                               // [samples, length], own strides
  T *out, *grad_state, *grad_h;                                // [samples, length], contiguous
  std::int64_t state_stride, h_stride, g_stride, grad_stride;  // in elements
  std::int64_t samples, length;
  T clamp;
};

template <CouplingOp op>
constexpr bool kHasOut =
    op == CouplingOp::kForward || op == CouplingOp::kInverse || op == CouplingOp::kRecomputeBackward;
template <CouplingOp op>
constexpr bool kHasGrad = op != CouplingOp::kForward && op != CouplingOp::kInverse;

template <CouplingOp op, typename T>
struct Coupling {
  const Operands<T>& o;

  template <int kWidth>
  __device__ __forceinline__ void at(std::int64_t sample, std::int64_t element) {
    using P = Pack<T, kWidth>;
    const P state = load<kWidth>(o.state + sample * o.state_stride + element);
    const P h = load<kWidth>(o.h + sample * o.h_stride + element);
    P g{}, grad{}, out, grad_state, grad_h;
    if constexpr (kHasOut<op>) g = load<kWidth>(o.g + sample * o.g_stride + element);
    if constexpr (kHasGrad<op>) grad = load<kWidth>(o.grad + sample * o.grad_stride + element);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      coupling_element<op>(state.v[k], h.v[k], g.v[k], grad.v[k], o.clamp, out.v[k], grad_state.v[k], grad_h.v[k]);
    }
    const std::int64_t at = sample * o.length + element;
    if constexpr (kHasOut<op>) store<kWidth>(o.out + at, out);
    if constexpr (kHasGrad<op>) {
      store<kWidth>(o.grad_state + at, grad_state);
      store<kWidth>(o.grad_h + at, grad_h);
    }
  }
};

template <CouplingOp op, typename T, int kWidth>
__global__ void __launch_bounds__(kPointwiseThreads, sizeof(T) == 8 ? 1 : 2) coupling_kernel(const Operands<T> o) {
  Coupling<op, T> work{o};
  for_each_item<kWidth>(work, o.samples, o.length, o.h, o.h_stride);
}

template <typename T, int kWidth>
void launch_width(CouplingOp op, const Operands<T>& o, cudaStream_t stream) {
  const PointwiseLaunch l = pointwise_launch(o.samples, most_items(o.length, kWidth));
  const auto run = [&](const char* name, void (*kernel)(Operands<T>)) {
    launch(name, kernel, dim3(l.grid_x, l.grid_y), dim3(l.block_x, l.block_y), 0, stream, o);
  };
  switch (op) {
    case CouplingOp::kForward:
      return run("affine_coupling_forward", coupling_kernel<CouplingOp::kForward, T, kWidth>);
    case CouplingOp::kInverse:
      return run("affine_coupling_inverse", coupling_kernel<CouplingOp::kInverse, T, kWidth>);
    case CouplingOp::kBackward:
      return run("affine_coupling_backward", coupling_kernel<CouplingOp::kBackward, T, kWidth>);
    case CouplingOp::kInverseBackward:
      return run("affine_coupling_inverse_backward", coupling_kernel<CouplingOp::kInverseBackward, T, kWidth>);
    case CouplingOp::kRecomputeBackward:
      return run("affine_coupling_recompute_backward", coupling_kernel<CouplingOp::kRecomputeBackward, T, kWidth>);
  }
}

template <typename T>
void dispatch(const CouplingParams& p, cudaStream_t stream) {
  Operands<T> o{static_cast<const T*>(p.state.data),
                static_cast<const T*>(p.h.data),
                static_cast<const T*>(p.g.data),
                static_cast<const T*>(p.grad.data),
                static_cast<T*>(p.out),
                static_cast<T*>(p.grad_state),
                static_cast<T*>(p.grad_h),
                p.state.batch_stride,
                p.h.batch_stride,
                p.g.batch_stride,
                p.grad.batch_stride,
                p.batch,
                p.inner,
                static_cast<T>(p.clamp)};
  const std::initializer_list<Operand> operands = {operand(p.state),
                                                   operand(p.h),
                                                   operand(p.g),
                                                   operand(p.grad),
                                                   operand(p.out, p.inner),
                                                   operand(p.grad_state, p.inner),
                                                   operand(p.grad_h, p.inner)};
  if (joins(operands, o.samples, o.length)) {
    o.length *= o.samples;
    o.samples = 1;
  }
  if (aligned_alike(operands, o.samples, sizeof(T))) {
    launch_width<T, kPackWidth<T>>(p.op, o, stream);
  } else {
    launch_width<T, 1>(p.op, o, stream);
  }
}

}  // namespace

void affine_coupling(const CouplingParams& p, void* stream) {
  if (p.batch * p.inner == 0) return;
  if (p.dtype == DType::kFloat64) {
    dispatch<double>(p, static_cast<cudaStream_t>(stream));
  } else {
    dispatch<float>(p, static_cast<cudaStream_t>(stream));
  }
}

int runtime_version() {
  int version = 0;
  cudaRuntimeGetVersion(&version);
  return version;
}

}  // namespace ivan_fast::cuda
