// The launchers of the 1x1 convolution's weight and of the state's rounding, as C functions for ctypes.
#include "exports.h"
#include "ivan_fast/plu.h"
#include "ivan_fast/round_state.h"

using std::int64_t;
using namespace ivan_fast;

EMULATION_EXPORT const char* emulated_plu_weight(int64_t dtype, int64_t channels, const void* p, const void* lower,
                                                 const void* log_s, const void* sign_s, const void* upper, int64_t wide,
                                                 void* weight, double* inverse) {
  const PluFactors factors{static_cast<DType>(dtype), static_cast<int>(channels), p, lower, log_s, sign_s, upper};
  return guarded([&] { cuda::plu_weight({factors, wide != 0, weight, inverse}, nullptr); });
}

EMULATION_EXPORT const char* emulated_plu_weight_backward(int64_t dtype, int64_t channels, const void* p,
                                                          const void* lower, const void* log_s, const void* sign_s,
                                                          const void* upper, int64_t grad_dtype,
                                                          const void* grad_weight, const double* grad_inverse,
                                                          const double* inverse, void* grad_lower, void* grad_log_s,
                                                          void* grad_upper) {
  const PluFactors factors{static_cast<DType>(dtype), static_cast<int>(channels), p, lower, log_s, sign_s, upper};
  const PluBackwardParams params{
      factors, static_cast<DType>(grad_dtype), grad_weight, grad_inverse, inverse, grad_lower, grad_log_s, grad_upper};
  return guarded([&] { cuda::plu_weight_backward(params, nullptr); });
}

EMULATION_EXPORT const char* emulated_round_state(int64_t batch, int64_t inner, const void* x, int64_t x_stride,
                                                  const double* steps, float* out) {
  return guarded([&] { cuda::round_state({batch, inner, {x, x_stride}, steps, out}, nullptr); });
}
