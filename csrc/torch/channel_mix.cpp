// Binding of the channel mix ops.
#include "ivan_fast/channel_mix.h"

#include <tuple>

#include "tensors.h"

namespace ivan_fast {
namespace {

constexpr int64_t kGrain = 4;  // chunks of kMixChunk pixels below which another thread does not pay

struct OnCpu {
  explicit OnCpu(const Tensor&) {}
  static int64_t partials(const ChannelMixBackwardParams& p) { return mix_chunks(p.batch, p.pixels); }
  void operator()(const ChannelMixParams& params) const {
    torch::stable::parallel_for(0, mix_chunks(params.batch, params.pixels), kGrain,
                                [&](int64_t begin, int64_t end) { cpu::channel_mix(params, begin, end); });
  }
  void operator()(const ChannelMixBackwardParams& params) const {
    torch::stable::parallel_for(0, mix_chunks(params.batch, params.pixels), kGrain,
                                [&](int64_t begin, int64_t end) { cpu::channel_mix_backward(params, begin, end); });
    cpu::channel_mix_reduce(params);
  }
};

#ifdef IVAN_FAST_WITH_CUDA
struct OnCuda : OnCudaStream {
  using OnCudaStream::OnCudaStream;
  static int64_t partials(const ChannelMixBackwardParams& p) {
    return cuda::channel_mix_partials(p.batch, p.channels, p.pixels);
  }
  void operator()(const ChannelMixParams& params) const { cuda::channel_mix(params, stream); }
  void operator()(const ChannelMixBackwardParams& params) const { cuda::channel_mix_backward(params, stream); }
};
#endif

template <typename Params>
Params checked_params(const char* op, const Tensor& x, const Tensor& weight) {
  check(x.dim() >= 2, op, ": x has shape ", shape_of(x), ", expected [N, C, H, W]");
  Params params{};
  params.dtype = state_dtype(op, "x", x);
  params.batch = x.size(0);
  params.channels = x.size(1);
  params.pixels = x.numel() == 0 ? 0 : x.numel() / (x.size(0) * x.size(1));
  check_alike(op, "x", x, "weight", weight);
  check(weight.dim() == 2 && weight.size(0) == x.size(1) && weight.size(1) == x.size(1), op, ": weight has shape ",
        shape_of(weight), ", expected [", x.size(1), ", ", x.size(1), "] for x of shape ", shape_of(x));
  return params;
}

template <typename Device>
Tensor mix(const Tensor& x, const Tensor& weight) {
  const char* op = "channel_mix";
  const Device launch(x);
  auto params = checked_params<ChannelMixParams>(op, x, weight);
  const Tensor kept_x = with_contiguous_samples(x), kept_weight = torch::stable::contiguous(weight);
  Tensor y = empty_as(x);
  params.x = as_input(kept_x);
  params.weight = as_input(kept_weight);
  params.y = y.mutable_data_ptr();
  launch(params);
  return y;
}

template <typename Device>
std::tuple<Tensor, Tensor> mix_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight) {
  const char* op = "channel_mix_backward";
  const Device launch(x);
  auto params = checked_params<ChannelMixBackwardParams>(op, x, weight);
  check_alike(op, "x", x, "grad_y", grad_y);
  check_same_shape(op, "x", x, "grad_y", grad_y);
  const Tensor kept_x = with_contiguous_samples(x), kept_grad = with_contiguous_samples(grad_y);
  const Tensor kept_weight = torch::stable::contiguous(weight);
  Tensor grad_x = empty_as(x), grad_weight = empty_as(weight);
  const int64_t workspace[] = {Device::partials(params), params.channels, params.channels};
  Tensor partial = torch::stable::new_empty(x, {workspace, 3}, torch::headeronly::ScalarType::Double);
  params.grad_y = as_input(kept_grad);
  params.x = as_input(kept_x);
  params.weight = as_input(kept_weight);
  params.grad_x = grad_x.mutable_data_ptr();
  params.grad_weight = grad_weight.mutable_data_ptr();
  params.partial = static_cast<double*>(partial.mutable_data_ptr());
  launch(params);
  return {grad_x, grad_weight};
}

template <typename Device>
void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("channel_mix", TORCH_BOX(&mix<Device>));
  m.impl("channel_mix_backward", TORCH_BOX(&mix_backward<Device>));
}

}  // namespace
}  // namespace ivan_fast

STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CPU, m) { ivan_fast::register_kernels<ivan_fast::OnCpu>(m); }
#ifdef IVAN_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CUDA, m) { ivan_fast::register_kernels<ivan_fast::OnCuda>(m); }
#endif
