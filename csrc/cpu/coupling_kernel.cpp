// Affine coupling on the CPU; compiled once for each instruction set (isa.h). The loops are left to the vectoriser.
#include "ivan_fast/coupling.h"

namespace ivan_fast::cpu::IVAN_ISA {
namespace {

// `count` neighbouring elements; pointers an op does not use are null and never read.
template <CouplingOp op, typename T>
void run(const T* __restrict state, const T* __restrict h, const T* __restrict g, const T* __restrict grad,
         T* __restrict out, T* __restrict grad_state, T* __restrict grad_h, std::int64_t count, T clamp) {
  constexpr bool kHasOut =
      op == CouplingOp::kForward || op == CouplingOp::kInverse || op == CouplingOp::kRecomputeBackward;
  constexpr bool kHasGrad = op != CouplingOp::kForward && op != CouplingOp::kInverse;
  for (std::int64_t i = 0; i < count; ++i) {
    T g_i = T(0), grad_i = T(0), out_i, grad_state_i, grad_h_i;
    if constexpr (kHasOut) g_i = g[i];
    if constexpr (kHasGrad) grad_i = grad[i];
    coupling_element<op>(state[i], h[i], g_i, grad_i, clamp, out_i, grad_state_i, grad_h_i);
    if constexpr (kHasOut) out[i] = out_i;
    if constexpr (kHasGrad) {
      grad_state[i] = grad_state_i;
      grad_h[i] = grad_h_i;
    }
  }
}

template <typename T>
const T* at(const Input& input, std::int64_t sample, std::int64_t offset) {
  const T* data = static_cast<const T*>(input.data);
  return data == nullptr ? nullptr : data + sample * input.batch_stride + offset;
}

template <typename T>
T* at(void* data, std::int64_t offset) {
  return data == nullptr ? nullptr : static_cast<T*>(data) + offset;
}

template <CouplingOp op, typename T>
void run_range(const CouplingParams& p, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end;) {
    const std::int64_t sample = i / p.inner, offset = i % p.inner;
    const std::int64_t count = (p.inner - offset < end - i) ? p.inner - offset : end - i;
    run<op, T>(at<T>(p.state, sample, offset), at<T>(p.h, sample, offset), at<T>(p.g, sample, offset),
               at<T>(p.grad, sample, offset), at<T>(p.out, i), at<T>(p.grad_state, i), at<T>(p.grad_h, i), count,
               static_cast<T>(p.clamp));
    i += count;
  }
}

template <typename T>
void dispatch(const CouplingParams& p, std::int64_t begin, std::int64_t end) {
  switch (p.op) {
    case CouplingOp::kForward:
      return run_range<CouplingOp::kForward, T>(p, begin, end);
    case CouplingOp::kInverse:
      return run_range<CouplingOp::kInverse, T>(p, begin, end);
    case CouplingOp::kBackward:
      return run_range<CouplingOp::kBackward, T>(p, begin, end);
    case CouplingOp::kInverseBackward:
      return run_range<CouplingOp::kInverseBackward, T>(p, begin, end);
    case CouplingOp::kRecomputeBackward:
      return run_range<CouplingOp::kRecomputeBackward, T>(p, begin, end);
  }
}

}  // namespace

void affine_coupling(const CouplingParams& p, std::int64_t begin, std::int64_t end) {
  if (p.dtype == DType::kFloat64) {
    dispatch<double>(p, begin, end);
  } else {
    dispatch<float>(p, begin, end);
  }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
