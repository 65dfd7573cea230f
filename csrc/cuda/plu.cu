// The weight of an invertible 1x1 convolution on CUDA: one block, a thread for each element, everything in shared
// memory between the steps. What counts is that it is one launch.
#include "common.cuh"
#include "ivan_fast/plu_steps.h"

namespace ivan_fast::cuda {
namespace {

constexpr int kMaxThreads = kPluChannels * kPluChannels;

// Thread C i + j of the block takes (i, j); the threads beyond C * C only wait.
struct EachElement {
  int channels;
  template <typename Function>
  __device__ __forceinline__ void operator()(const Function& function) const {
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < channels * channels) function(thread / channels, thread % channels);
    __syncthreads();
  }
};

template <typename T, typename O>
__global__ void __launch_bounds__(kMaxThreads) plu_weight_kernel(const PluWeightParams params) {
  __shared__ PluScratch scratch;
  plu_weight_steps<T, O>(params, scratch, EachElement{params.factors.channels});
}

template <typename T, typename G>
__global__ void __launch_bounds__(kMaxThreads) plu_backward_kernel(const PluBackwardParams params) {
  __shared__ PluScratch scratch;
  plu_backward_steps<T, G>(params, scratch, EachElement{params.factors.channels});
}

template <typename Params>
void launch_one_block(const char* op, void (*kernel)(Params), const Params& params, void* stream) {
  const int elements = params.factors.channels * params.factors.channels;
  const dim3 threads(static_cast<unsigned>((elements + 31) / 32 * 32));
  launch(op, kernel, dim3(1), threads, 0, static_cast<cudaStream_t>(stream), params);
}

}  // namespace

void plu_weight(const PluWeightParams& params, void* stream) {
  const auto kernel = params.factors.dtype == DType::kFloat64 ? plu_weight_kernel<double, double>
                      : params.wide                           ? plu_weight_kernel<float, double>
                                                              : plu_weight_kernel<float, float>;
  launch_one_block("plu_weight", kernel, params, stream);
}

void plu_weight_backward(const PluBackwardParams& params, void* stream) {
  const bool wide = params.factors.dtype == DType::kFloat64, wide_grad = params.grad_dtype == DType::kFloat64;
  const auto kernel = wide ? (wide_grad ? plu_backward_kernel<double, double> : plu_backward_kernel<double, float>)
                           : (wide_grad ? plu_backward_kernel<float, double> : plu_backward_kernel<float, float>);
  launch_one_block("plu_weight_backward", kernel, params, stream);
}

}  // namespace ivan_fast::cuda
