// Binding of the affine coupling ops.
#include "ivan_fast/coupling.h"

#include <cmath>
#include <tuple>

#include "tensors.h"

namespace ivan_fast {
namespace {

constexpr int64_t kGrain = 4096;  // elements below which another thread does not pay

// The checked arguments of one call. Tensors that had to be copied live as long as this does.
struct Call {
  const char* op;
  const char* state_name;
  Tensor state;
  CouplingParams params{};

  Call(CouplingOp kind, const char* op_name, const char* name, const Tensor& t, double clamp)
      : op(op_name), state_name(name), state(with_contiguous_samples(t)) {
    check(t.dim() >= 2, op, ": ", name, " has shape ", shape_of(t), ", expected [N, C, H, W]");
    check(std::isfinite(clamp) && clamp >= 0, op, ": clamp is ", clamp, ", expected a finite number >= 0");
    params.op = kind;
    params.dtype = state_dtype(op, name, t);
    params.batch = t.size(0);
    params.inner = params.batch == 0 ? 0 : t.numel() / params.batch;
    params.clamp = clamp;
    params.state = as_input(state);
  }

  // The layout-checked tensor, which the caller keeps alive.
  Tensor add(const char* name, const Tensor& t, Input& input) const {
    check_alike(op, state_name, state, name, t);
    check_same_shape(op, state_name, state, name, t);
    Tensor kept = with_contiguous_samples(t);
    input = as_input(kept);
    return kept;
  }

  Tensor output(void*& pointer) const {
    Tensor t = empty_as(state);
    pointer = t.mutable_data_ptr();
    return t;
  }
};

struct OnCpu {
  explicit OnCpu(const Tensor&) {}
  void operator()(const CouplingParams& params) const {
    torch::stable::parallel_for(0, params.batch * params.inner, kGrain,
                                [&](int64_t begin, int64_t end) { cpu::affine_coupling(params, begin, end); });
  }
};

#ifdef IVAN_FAST_WITH_CUDA
struct OnCuda : OnCudaStream {
  using OnCudaStream::OnCudaStream;
  void operator()(const CouplingParams& params) const { cuda::affine_coupling(params, stream); }
};
#endif

template <typename Device>
Tensor forward(const Tensor& x, const Tensor& h, const Tensor& g, double clamp) {
  const Device launch(x);
  Call call(CouplingOp::kForward, "affine_coupling_forward", "x", x, clamp);
  const Tensor kept_h = call.add("h", h, call.params.h), kept_g = call.add("g", g, call.params.g);
  Tensor y = call.output(call.params.out);
  launch(call.params);
  return y;
}

template <typename Device>
Tensor inverse(const Tensor& y, const Tensor& h, const Tensor& g, double clamp) {
  const Device launch(y);
  Call call(CouplingOp::kInverse, "affine_coupling_inverse", "y", y, clamp);
  const Tensor kept_h = call.add("h", h, call.params.h), kept_g = call.add("g", g, call.params.g);
  Tensor x = call.output(call.params.out);
  launch(call.params);
  return x;
}

template <typename Device>
std::tuple<Tensor, Tensor> backward(const Tensor& grad_y, const Tensor& x, const Tensor& h, double clamp) {
  const Device launch(x);
  Call call(CouplingOp::kBackward, "affine_coupling_backward", "x", x, clamp);
  const Tensor kept_grad = call.add("grad_y", grad_y, call.params.grad), kept_h = call.add("h", h, call.params.h);
  Tensor grad_x = call.output(call.params.grad_state), grad_h = call.output(call.params.grad_h);
  launch(call.params);
  return {grad_x, grad_h};
}

template <typename Device>
std::tuple<Tensor, Tensor> inverse_backward(const Tensor& grad_x, const Tensor& x, const Tensor& h, double clamp) {
  const Device launch(x);
  Call call(CouplingOp::kInverseBackward, "affine_coupling_inverse_backward", "x", x, clamp);
  const Tensor kept_grad = call.add("grad_x", grad_x, call.params.grad), kept_h = call.add("h", h, call.params.h);
  Tensor grad_y = call.output(call.params.grad_state), grad_h = call.output(call.params.grad_h);
  launch(call.params);
  return {grad_y, grad_h};
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor> recompute_backward(const Tensor& y, const Tensor& h, const Tensor& g,
                                                      const Tensor& grad_y, double clamp) {
  const Device launch(y);
  Call call(CouplingOp::kRecomputeBackward, "affine_coupling_recompute_backward", "y", y, clamp);
  const Tensor kept_h = call.add("h", h, call.params.h), kept_g = call.add("g", g, call.params.g);
  const Tensor kept_grad = call.add("grad_y", grad_y, call.params.grad);
  Tensor x = call.output(call.params.out);
  Tensor grad_x = call.output(call.params.grad_state), grad_h = call.output(call.params.grad_h);
  launch(call.params);
  return {x, grad_x, grad_h};
}

template <typename Device>
void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("affine_coupling_forward", TORCH_BOX(&forward<Device>));
  m.impl("affine_coupling_inverse", TORCH_BOX(&inverse<Device>));
  m.impl("affine_coupling_backward", TORCH_BOX(&backward<Device>));
  m.impl("affine_coupling_inverse_backward", TORCH_BOX(&inverse_backward<Device>));
  m.impl("affine_coupling_recompute_backward", TORCH_BOX(&recompute_backward<Device>));
}

}  // namespace
}  // namespace ivan_fast

STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CPU, m) { ivan_fast::register_kernels<ivan_fast::OnCpu>(m); }
#ifdef IVAN_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CUDA, m) { ivan_fast::register_kernels<ivan_fast::OnCuda>(m); }
#endif
