// The weight of an invertible 1x1 convolution on the CPU: at most 16 x 16, so one thread and plain loops.
#include "ivan_fast/plu_steps.h"

namespace ivan_fast::cpu {
namespace {

struct EachElement {
  int channels;
  template <typename Function>
  void operator()(const Function& function) const {
    for (int i = 0; i < channels; ++i) {
      for (int j = 0; j < channels; ++j) function(i, j);
    }
  }
};

}  // namespace

void plu_weight(const PluWeightParams& params) {
  PluScratch scratch;
  const EachElement each{params.factors.channels};
  if (params.factors.dtype == DType::kFloat64) {
    plu_weight_steps<double, double>(params, scratch, each);
  } else if (params.wide) {
    plu_weight_steps<float, double>(params, scratch, each);
  } else {
    plu_weight_steps<float, float>(params, scratch, each);
  }
}

void plu_weight_backward(const PluBackwardParams& params) {
  PluScratch scratch;
  const EachElement each{params.factors.channels};
  const bool wide_grad = params.grad_dtype == DType::kFloat64;
  if (params.factors.dtype == DType::kFloat64) {
    wide_grad ? plu_backward_steps<double, double>(params, scratch, each)
              : plu_backward_steps<double, float>(params, scratch, each);
  } else {
    wide_grad ? plu_backward_steps<float, double>(params, scratch, each)
              : plu_backward_steps<float, float>(params, scratch, each);
  }
}

}  // namespace ivan_fast::cpu
