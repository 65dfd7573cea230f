// Affine coupling on CUDA: one grid-stride kernel for the five ops, 16-byte accesses where every operand allows them.
#include "common.cuh"
#include "ivan_fast/coupling.h"
#include "ivan_fast/cuda_info.h"

namespace ivan_fast::cuda {
namespace {

template <typename T>
struct Operands {
  const T *state, *h, *g, *grad;                               // [N, inner], own batch strides
  T *out, *grad_state, *grad_h;                                // [N, inner], contiguous
  std::int64_t state_stride, h_stride, g_stride, grad_stride;  // in packs
  std::int64_t packs, inner;                                   // all packs; packs of a sample
  T clamp;
};

template <CouplingOp op, typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) coupling_kernel(Operands<T> o) {
  using P = Pack<T, kWidth>;
  constexpr bool kHasOut =
      op == CouplingOp::kForward || op == CouplingOp::kInverse || op == CouplingOp::kRecomputeBackward;
  constexpr bool kHasGrad = op != CouplingOp::kForward && op != CouplingOp::kInverse;
  const std::int64_t step = std::int64_t(gridDim.x) * blockDim.x;
  for (std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < o.packs; i += step) {
    const std::int64_t sample = i / o.inner, offset = i - sample * o.inner;
    const P state = reinterpret_cast<const P*>(o.state)[sample * o.state_stride + offset];
    const P h = reinterpret_cast<const P*>(o.h)[sample * o.h_stride + offset];
    P g{}, grad{}, out, grad_state, grad_h;
    if constexpr (kHasOut) g = reinterpret_cast<const P*>(o.g)[sample * o.g_stride + offset];
    if constexpr (kHasGrad) grad = reinterpret_cast<const P*>(o.grad)[sample * o.grad_stride + offset];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      coupling_element<op>(state.v[k], h.v[k], g.v[k], grad.v[k], o.clamp, out.v[k], grad_state.v[k], grad_h.v[k]);
    }
    if constexpr (kHasOut) reinterpret_cast<P*>(o.out)[i] = out;
    if constexpr (kHasGrad) {
      reinterpret_cast<P*>(o.grad_state)[i] = grad_state;
      reinterpret_cast<P*>(o.grad_h)[i] = grad_h;
    }
  }
}

template <typename T, int kWidth>
void launch_width(const CouplingParams& p, cudaStream_t stream) {
  const Operands<T> o{static_cast<const T*>(p.state.data),
                      static_cast<const T*>(p.h.data),
                      static_cast<const T*>(p.g.data),
                      static_cast<const T*>(p.grad.data),
                      static_cast<T*>(p.out),
                      static_cast<T*>(p.grad_state),
                      static_cast<T*>(p.grad_h),
                      p.state.batch_stride / kWidth,
                      p.h.batch_stride / kWidth,
                      p.g.batch_stride / kWidth,
                      p.grad.batch_stride / kWidth,
                      p.batch * p.inner / kWidth,
                      p.inner / kWidth,
                      static_cast<T>(p.clamp)};
  constexpr const char* kName = "affine_coupling";
  const unsigned blocks = blocks_for(o.packs);
  switch (p.op) {
    case CouplingOp::kForward:
      return launch(kName, coupling_kernel<CouplingOp::kForward, T, kWidth>, blocks, kThreads, 0, stream, o);
    case CouplingOp::kInverse:
      return launch(kName, coupling_kernel<CouplingOp::kInverse, T, kWidth>, blocks, kThreads, 0, stream, o);
    case CouplingOp::kBackward:
      return launch(kName, coupling_kernel<CouplingOp::kBackward, T, kWidth>, blocks, kThreads, 0, stream, o);
    case CouplingOp::kInverseBackward:
      return launch(kName, coupling_kernel<CouplingOp::kInverseBackward, T, kWidth>, blocks, kThreads, 0, stream, o);
    case CouplingOp::kRecomputeBackward:
      return launch(kName, coupling_kernel<CouplingOp::kRecomputeBackward, T, kWidth>, blocks, kThreads, 0, stream, o);
  }
}

template <typename T>
void dispatch(const CouplingParams& p, cudaStream_t stream) {
  bool packed = p.inner % kPackWidth<T> == 0 && aligned16(p.out) && aligned16(p.grad_state) && aligned16(p.grad_h);
  for (const Input& input : {p.state, p.h, p.g, p.grad}) packed = packed && aligned16(input, p.batch, sizeof(T));
  if (packed) {
    launch_width<T, kPackWidth<T>>(p, stream);
  } else {
    launch_width<T, 1>(p, stream);
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
