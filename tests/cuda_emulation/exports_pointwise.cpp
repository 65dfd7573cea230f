// The launchers of the coupling and of the channel mix, as C functions for ctypes: integers, doubles and pointers only.
#include "exports.h"
#include "ivan_fast/channel_mix.h"
#include "ivan_fast/coupling.h"

using std::int64_t;
using namespace ivan_fast;

EMULATION_EXPORT const char* emulated_affine_coupling(int64_t op, int64_t dtype, int64_t batch, int64_t inner,
                                                      double clamp, const void* state, int64_t state_stride,
                                                      const void* h, int64_t h_stride, const void* g, int64_t g_stride,
                                                      const void* grad, int64_t grad_stride, void* out,
                                                      void* grad_state, void* grad_h) {
  CouplingParams p{};
  p.op = static_cast<CouplingOp>(op);
  p.dtype = static_cast<DType>(dtype);
  p.batch = batch;
  p.inner = inner;
  p.clamp = clamp;
  p.state = {state, state_stride};
  p.h = {h, h_stride};
  p.g = {g, g_stride};
  p.grad = {grad, grad_stride};
  p.out = out;
  p.grad_state = grad_state;
  p.grad_h = grad_h;
  return guarded([&] { cuda::affine_coupling(p, nullptr); });
}

EMULATION_EXPORT const char* emulated_channel_mix(int64_t dtype, int64_t batch, int64_t channels, int64_t pixels,
                                                  const void* x, int64_t x_stride, const void* weight, void* y) {
  const ChannelMixParams p{static_cast<DType>(dtype), batch, channels, pixels, {x, x_stride}, {weight, channels}, y};
  return guarded([&] { cuda::channel_mix(p, nullptr); });
}

EMULATION_EXPORT const char* emulated_channel_mix_backward(int64_t dtype, int64_t batch, int64_t channels,
                                                           int64_t pixels, const void* grad_y, int64_t grad_stride,
                                                           const void* x, int64_t x_stride, const void* weight,
                                                           void* grad_x, void* grad_weight, double* partial) {
  const ChannelMixBackwardParams p{
      static_cast<DType>(dtype), batch,  channels,    pixels, {grad_y, grad_stride}, {x, x_stride},
      {weight, channels},        grad_x, grad_weight, partial};
  return guarded([&] { cuda::channel_mix_backward(p, nullptr); });
}

EMULATION_EXPORT int64_t channel_mix_partials(int64_t batch, int64_t channels, int64_t pixels) {
  return cuda::channel_mix_partials(batch, channels, pixels);
}
