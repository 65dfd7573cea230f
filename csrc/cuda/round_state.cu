// Rounding of the state on CUDA: read once, written once, four elements at a time (two reads of 16 bytes, one write)
// where the 16-byte boundaries of input and output fall on the same elements.
#include "ivan_fast/round_state.h"
#include "pointwise.cuh"

namespace ivan_fast::cuda {
namespace {

struct Operands {
  const double* x;        // [samples, length]
  std::int64_t x_stride;  // in elements
  const double* steps;    // [samples]
  float* out;             // [samples, length], contiguous
  std::int64_t samples, length;
};

struct Rounding {
  const Operands& o;

  template <int kWidth>
  __device__ __forceinline__ void at(std::int64_t sample, std::int64_t element) {
    constexpr int kRead = kWidth < 2 ? 1 : 2;
    const double* from = o.x + sample * o.x_stride + element;
    const double step = __ldg(o.steps + sample);
    Pack<double, kRead> in[kWidth / kRead];
    Pack<float, kWidth> out;
#pragma unroll
    for (int k = 0; k < kWidth / kRead; ++k) in[k] = load<kRead>(from + k * kRead);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) out.v[k] = rounded_to(in[k / kRead].v[k % kRead], step);
    store<kWidth>(o.out + sample * o.length + element, out);
  }
};

template <int kWidth>
__global__ void __launch_bounds__(kPointwiseThreads, 2) round_state_kernel(const Operands o) {
  Rounding work{o};
  for_each_item<kWidth>(work, o.samples, o.length, o.out, o.length);
}

template <int kWidth>
void launch_width(const Operands& o, cudaStream_t stream) {
  const PointwiseLaunch l = pointwise_launch(o.samples, most_items(o.length, kWidth));
  launch("round_state", round_state_kernel<kWidth>, dim3(l.grid_x, l.grid_y), dim3(l.block_x, l.block_y), 0, stream, o);
}

}  // namespace

void round_state(const RoundStateParams& p, void* stream) {
  if (p.batch * p.inner == 0) return;
  const Operands o{static_cast<const double*>(p.x.data), p.x.batch_stride, p.steps, p.out, p.batch, p.inner};
  if (boundaries_meet(operand(p.x), operand(p.out, p.inner), p.batch)) {
    launch_width<4>(o, static_cast<cudaStream_t>(stream));
  } else {
    launch_width<1>(o, static_cast<cudaStream_t>(stream));
  }
}

}  // namespace ivan_fast::cuda
