// Binding of the ops that make the weight of an invertible 1x1 convolution.
#include "ivan_fast/plu.h"

#include <optional>
#include <tuple>

#include "tensors.h"

namespace ivan_fast {
namespace {

constexpr auto kDouble = torch::headeronly::ScalarType::Double;

struct OnCpu {
  explicit OnCpu(const Tensor&) {}
  void operator()(const PluWeightParams& params) const { cpu::plu_weight(params); }
  void operator()(const PluBackwardParams& params) const { cpu::plu_weight_backward(params); }
};

#ifdef IVAN_FAST_WITH_CUDA
struct OnCuda : OnCudaStream {
  using OnCudaStream::OnCudaStream;
  void operator()(const PluWeightParams& params) const { cuda::plu_weight(params, stream); }
  void operator()(const PluBackwardParams& params) const { cuda::plu_weight_backward(params, stream); }
};
#endif

// The checked factors of one call. Tensors that had to be copied live as long as this does.
struct Factors {
  const char* op;
  Tensor p, lower, log_s, sign_s, upper;
  PluFactors params{};

  Factors(const char* op_name, const Tensor& p_, const Tensor& lower_, const Tensor& log_s_, const Tensor& sign_s_,
          const Tensor& upper_)
      : op(op_name), lower(torch::stable::contiguous(lower_)) {
    check(lower.dim() == 2 && lower.size(0) == lower.size(1) && lower.size(0) >= 1 && lower.size(0) <= kPluChannels, op,
          ": lower has shape ", shape_of(lower), ", expected [C, C] with C from 1 to ", kPluChannels);
    params.dtype = state_dtype(op, "lower", lower);
    params.channels = static_cast<int>(lower.size(0));
    p = factor("p", p_, 2);
    log_s = factor("log_s", log_s_, 1);
    sign_s = factor("sign_s", sign_s_, 1);
    upper = factor("upper", upper_, 2);
    params.p = p.const_data_ptr();
    params.lower = lower.const_data_ptr();
    params.log_s = log_s.const_data_ptr();
    params.sign_s = sign_s.const_data_ptr();
    params.upper = upper.const_data_ptr();
  }

  Tensor factor(const char* name, const Tensor& t, int64_t dims) const {
    check_alike(op, "lower", lower, name, t);
    check_sizes(name, t, dims);
    return torch::stable::contiguous(t);
  }

  // [C, C], or [C] with dims 1.
  void check_sizes(const char* name, const Tensor& t, int64_t dims) const {
    const int64_t c = lower.size(0);
    check(t.dim() == dims && t.size(0) == c && t.size(dims - 1) == c, op, ": ", name, " has shape ", shape_of(t),
          ", expected ", dims == 2 ? "[C, C]" : "[C]", " for lower of shape ", shape_of(lower));
  }

  // A contiguous [C, C] of float64 on the device of the factors.
  Tensor wide(const char* name, const Tensor& t) const {
    check(t.scalar_type() == kDouble, op, ": ", name, " is ", torch::headeronly::toString(t.scalar_type()),
          ", expected float64");
    check(t.device() == lower.device(), op, ": ", name, " and lower are on different devices");
    check_sizes(name, t, 2);
    return torch::stable::contiguous(t);
  }
};

template <typename Device>
std::tuple<Tensor, Tensor> weight(const Tensor& p, const Tensor& lower, const Tensor& log_s, const Tensor& sign_s,
                                  const Tensor& upper, bool wide) {
  const Device launch(lower);
  const Factors factors("plu_weight", p, lower, log_s, sign_s, upper);
  Tensor inverse = torch::stable::new_empty(lower, lower.sizes(), kDouble);
  Tensor weight = wide ? torch::stable::new_empty(lower, lower.sizes(), kDouble) : empty_as(lower);
  PluWeightParams params{};
  params.factors = factors.params;
  params.wide = wide;
  params.weight = weight.mutable_data_ptr();
  params.inverse = static_cast<double*>(inverse.mutable_data_ptr());
  launch(params);
  return {weight, inverse};
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor> weight_backward(const std::optional<Tensor>& grad_weight,
                                                   const std::optional<Tensor>& grad_inverse,
                                                   const std::optional<Tensor>& inverse, const Tensor& p,
                                                   const Tensor& lower, const Tensor& log_s, const Tensor& sign_s,
                                                   const Tensor& upper) {
  const char* op = "plu_weight_backward";
  const Device launch(lower);
  const Factors factors(op, p, lower, log_s, sign_s, upper);
  check(grad_weight.has_value() || grad_inverse.has_value(), op, ": expected grad_weight, grad_inverse or both");
  check(grad_inverse.has_value() == inverse.has_value(), op,
        ": grad_inverse and inverse come together, found only one of them");
  PluBackwardParams params{};
  params.factors = factors.params;
  std::optional<Tensor> kept_weight, kept_grad, kept_inverse;
  if (grad_weight.has_value()) {
    params.grad_dtype = grad_weight->scalar_type() == kDouble ? DType::kFloat64 : DType::kFloat32;
    check(params.grad_dtype == DType::kFloat64 || grad_weight->scalar_type() == torch::headeronly::ScalarType::Float,
          op, ": grad_weight is ", torch::headeronly::toString(grad_weight->scalar_type()),
          ", expected float32 or float64");
    check(grad_weight->device() == lower.device(), op, ": grad_weight and lower are on different devices");
    factors.check_sizes("grad_weight", *grad_weight, 2);
    kept_weight = torch::stable::contiguous(*grad_weight);
    params.grad_weight = kept_weight->const_data_ptr();
  }
  if (grad_inverse.has_value()) {
    kept_grad = factors.wide("grad_inverse", *grad_inverse);
    kept_inverse = factors.wide("inverse", *inverse);
    params.grad_inverse = static_cast<const double*>(kept_grad->const_data_ptr());
    params.inverse = static_cast<const double*>(kept_inverse->const_data_ptr());
  }
  Tensor grad_lower = empty_as(lower), grad_log_s = empty_as(log_s), grad_upper = empty_as(upper);
  params.grad_lower = grad_lower.mutable_data_ptr();
  params.grad_log_s = grad_log_s.mutable_data_ptr();
  params.grad_upper = grad_upper.mutable_data_ptr();
  launch(params);
  return {grad_lower, grad_log_s, grad_upper};
}

template <typename Device>
void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("plu_weight", TORCH_BOX(&weight<Device>));
  m.impl("plu_weight_backward", TORCH_BOX(&weight_backward<Device>));
}

}  // namespace
}  // namespace ivan_fast

STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CPU, m) { ivan_fast::register_kernels<ivan_fast::OnCpu>(m); }
#ifdef IVAN_FAST_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CUDA, m) { ivan_fast::register_kernels<ivan_fast::OnCuda>(m); }
#endif
