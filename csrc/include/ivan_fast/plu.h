// The weight of an invertible 1x1 convolution from its factors, W = P (L + I) (U + diag(sign_s exp(log_s))), its
// inverse, and the gradients of the factors: parameters and entry points (steps: plu_steps.h).
#pragma once
#include <cstdint>

#include "ivan_fast/types.h"

namespace ivan_fast {

constexpr int kPluChannels = 16;  // the most

// All contiguous and of one dtype; 1 <= C <= kPluChannels.
struct PluFactors {
  DType dtype;
  int channels;                  // C
  const void* p = nullptr;       // [C, C]
  const void* lower = nullptr;   // [C, C], of which the strictly lower triangle is L
  const void* log_s = nullptr;   // [C]
  const void* sign_s = nullptr;  // [C]
  const void* upper = nullptr;   // [C, C], of which the strictly upper triangle is U
};

struct PluWeightParams {
  PluFactors factors;
  bool wide;                  // weight is float64: the very values that it has in the dtype of the factors
  void* weight = nullptr;     // [C, C], contiguous
  double* inverse = nullptr;  // [C, C], contiguous
};

struct PluBackwardParams {
  PluFactors factors;
  DType grad_dtype;                      // of grad_weight
  const void* grad_weight = nullptr;     // [C, C], contiguous; null for zero
  const double* grad_inverse = nullptr;  // [C, C], contiguous; null for zero
  const double* inverse = nullptr;       // [C, C], contiguous; null without grad_inverse
  void* grad_lower = nullptr;            // [C, C], contiguous, dtype of the factors as the next two
  void* grad_log_s = nullptr;            // [C]
  void* grad_upper = nullptr;            // [C, C]
};

namespace cpu {
void plu_weight(const PluWeightParams& params);
void plu_weight_backward(const PluBackwardParams& params);
}  // namespace cpu

namespace cuda {
// On the current device, on `stream` (a cudaStream_t).
void plu_weight(const PluWeightParams& params, void* stream);
void plu_weight_backward(const PluBackwardParams& params, void* stream);
}  // namespace cuda

}  // namespace ivan_fast
