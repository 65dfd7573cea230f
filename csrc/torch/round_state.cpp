// Binding of the rounding of the state.
#include "ivan_fast/round_state.h"

#include "tensors.h"

namespace ivan_fast {
namespace {

constexpr int64_t kGrain = 4096;  // elements below which another thread does not pay

struct OnCpu {
  explicit OnCpu(const Tensor&) {}
  void operator()(const RoundStateParams& params) const {
    torch::stable::parallel_for(0, params.batch * params.inner, kGrain,
                                [&](int64_t begin, int64_t end) { cpu::round_state(params, begin, end); });
  }
};

#ifdef IVAN_FAST_WITH_CUDA
struct OnCuda : OnCudaStream {
  using OnCudaStream::OnCudaStream;
  void operator()(const RoundStateParams& params) const { cuda::round_state(params, stream); }
};
#endif

template <typename Device>
Tensor round_state(const Tensor& x, const Tensor& steps) {
  const char* op = "round_state";
  check(x.dim() >= 1, op, ": x has shape [], expected [N, ...]");
  check(x.scalar_type() == torch::headeronly::ScalarType::Double, op, ": x must be float64; found ",
        torch::headeronly::toString(x.scalar_type()));
  check_alike(op, "x", x, "steps", steps);
  check(steps.dim() == 1 && steps.size(0) == x.size(0), op, ": steps has shape ", shape_of(steps), ", expected [",
        x.size(0), "] for x of shape ", shape_of(x));
  const Device launch(x);
  const Tensor kept_x = with_contiguous_samples(x), kept_steps = torch::stable::contiguous(steps);
  Tensor out = torch::stable::new_empty(x, x.sizes(), torch::headeronly::ScalarType::Float);
  RoundStateParams params{};
  params.batch = x.size(0);
  params.inner = params.batch == 0 ? 0 : x.numel() / params.batch;
  params.x = as_input(kept_x);
  params.steps = static_cast<const double*>(kept_steps.const_data_ptr());
  params.out = static_cast<float*>(out.mutable_data_ptr());
  launch(params);
  return out;
}

}  // namespace
}  // namespace ivan_fast

STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CPU, m) {
  m.impl("round_state", TORCH_BOX(&ivan_fast::round_state<ivan_fast::OnCpu>));
}
#ifdef IVAN_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CUDA, m) {
  m.impl("round_state", TORCH_BOX(&ivan_fast::round_state<ivan_fast::OnCuda>));
}
#endif
