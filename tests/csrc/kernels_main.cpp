// Runs the CPU kernels without torch, on buffers of exactly the size they may touch: built with -fsanitize=address,
// undefined it shows every access out of bounds and every undefined operation. Also compares each with plain C++.
#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

#include "ivan_fast/channel_mix.h"
#include "ivan_fast/coupling.h"
#include "ivan_fast/plu.h"
#include "ivan_fast/round_state.h"

using namespace ivan_fast;

namespace {

int failures = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("FAILED: %s\n", what);
  ++failures;
}

// Heap memory of exactly `size` elements, so that the sanitiser sees the first one too far.
template <typename T>
struct Buffer {
  std::unique_ptr<T[]> data;
  explicit Buffer(std::int64_t size, double seed = 0) : data(new T[size]) {
    for (std::int64_t i = 0; i < size; ++i) data[i] = static_cast<T>(3 * std::sin(seed + 0.7 * static_cast<double>(i)));
  }
};

template <typename T>
bool close(T a, double b) {
  return std::abs(static_cast<double>(a) - b) <= (sizeof(T) == 4 ? 1e-5 : 1e-13) * (1 + std::abs(b));
}

template <typename T>
void test_coupling(DType dtype, std::int64_t batch, std::int64_t inner, std::int64_t stride, std::int64_t step) {
  const std::int64_t size = batch * inner, slice = batch == 0 ? 0 : (batch - 1) * stride + inner;
  const Buffer<T> state(slice, 1), h(size, 2), g(size, 3), grad(size, 4);
  const Buffer<T> out(size), grad_state(size), grad_h(size);
  const double clamp = 0.8;
  for (int op = 0; op < 5; ++op) {
    CouplingParams p{};
    p.op = static_cast<CouplingOp>(op);
    p.dtype = dtype;
    p.batch = batch;
    p.inner = inner;
    p.clamp = clamp;
    p.state = {state.data.get(), stride};
    p.h = {h.data.get(), inner};
    const bool has_out = op < 2 || op == 4, has_grad = op >= 2;
    if (has_out) p.g = {g.data.get(), inner}, p.out = out.data.get();
    if (has_grad) p.grad = {grad.data.get(), inner}, p.grad_state = grad_state.data.get(), p.grad_h = grad_h.data.get();
    for (std::int64_t i = 0; i < size; i += step) cpu::affine_coupling(p, i, i + step < size ? i + step : size);
    for (std::int64_t i = 0; i < size; ++i) {
      const double a = state.data[i / inner * stride + i % inner], s = clamp * std::tanh(h.data[i] / 2.0);
      const double slope = clamp / 2 * (1 - std::pow(std::tanh(h.data[i] / 2.0), 2)), dy = grad.data[i];
      const double inverse = (a - g.data[i]) * std::exp(-s);
      if (op == 0) expect(close(out.data[i], a * std::exp(s) + g.data[i]), "forward");
      if (op == 1 || op == 4) expect(close(out.data[i], inverse), "inverse");
      if (op == 2) expect(close(grad_h.data[i], dy * std::exp(s) * a * slope), "backward");
      if (op == 3) expect(close(grad_h.data[i], -dy * a * slope), "inverse_backward");
      if (op == 4) expect(close(grad_h.data[i], dy * std::exp(s) * inverse * slope), "recompute_backward");
    }
  }
}

template <typename T>
void test_mix(DType dtype, std::int64_t batch, std::int64_t channels, std::int64_t pixels) {
  const std::int64_t sample = channels * pixels, stride = sample + 3, slice = (batch - 1) * stride + sample;
  const Buffer<T> x(slice, 1), weight(channels * channels, 2), grad_y(slice, 3);
  Buffer<T> y(batch * sample), grad_x(batch * sample), grad_weight(channels * channels);
  const std::int64_t chunks = mix_chunks(batch, pixels);
  Buffer<double> partial(chunks * channels * channels);
  cpu::channel_mix(
      {dtype, batch, channels, pixels, {x.data.get(), stride}, {weight.data.get(), channels}, y.data.get()}, 0, chunks);
  const ChannelMixBackwardParams backward{dtype,
                                          batch,
                                          channels,
                                          pixels,
                                          {grad_y.data.get(), stride},
                                          {x.data.get(), stride},
                                          {weight.data.get(), channels},
                                          grad_x.data.get(),
                                          grad_weight.data.get(),
                                          partial.data.get()};
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) cpu::channel_mix_backward(backward, chunk, chunk + 1);
  cpu::channel_mix_reduce(backward);
  for (std::int64_t i = 0; i < channels; ++i) {
    for (std::int64_t n = 0; n < batch; ++n) {
      for (std::int64_t p = 0; p < pixels; ++p) {
        double sum = 0, transposed = 0;
        for (std::int64_t j = 0; j < channels; ++j) {
          sum += static_cast<double>(weight.data[i * channels + j]) * x.data[n * stride + j * pixels + p];
          transposed += static_cast<double>(weight.data[j * channels + i]) * grad_y.data[n * stride + j * pixels + p];
        }
        expect(close(y.data[n * sample + i * pixels + p], sum), "channel_mix");
        expect(close(grad_x.data[n * sample + i * pixels + p], transposed), "channel_mix_backward: grad_x");
      }
    }
    for (std::int64_t j = 0; j < channels; ++j) {
      double sum = 0, size = 0;
      for (std::int64_t n = 0; n < batch; ++n) {
        for (std::int64_t p = 0; p < pixels; ++p) {
          const double term =
              static_cast<double>(grad_y.data[n * stride + i * pixels + p]) * x.data[n * stride + j * pixels + p];
          sum += term;
          size += std::abs(term);
        }
      }
      const double bound = (sizeof(T) == 4 ? 1e-6 : 1e-14) * size;
      expect(std::abs(grad_weight.data[i * channels + j] - sum) <= bound, "channel_mix_backward: grad_weight");
    }
  }
}

void test_round_state(std::int64_t batch, std::int64_t inner, std::int64_t stride, std::int64_t step) {
  const std::int64_t size = batch * inner;
  const Buffer<double> x((batch - 1) * stride + inner, 1), steps(batch, 2);
  const Buffer<float> out(size);
  const RoundStateParams p{batch, inner, {x.data.get(), stride}, steps.data.get(), out.data.get()};
  for (std::int64_t i = 0; i < size; i += step) cpu::round_state(p, i, i + step < size ? i + step : size);
  for (std::int64_t i = 0; i < size; ++i) {
    const double unit = steps.data[i / inner], value = x.data[i / inner * stride + i % inner];
    expect(out.data[i] == static_cast<float>(std::nearbyint(value / unit) * unit), "round_state");
  }
}

// W times its inverse is the identity; the gradients of sum(W) are those of finite differences.
template <typename T>
void test_plu(DType dtype, int channels) {
  const int size = channels * channels;
  const Buffer<T> lower(size, 1), log_s(channels, 2), upper(size, 3), grad(size, 4);
  Buffer<T> p(size), sign_s(channels), weight(size), grad_lower(size), grad_log_s(channels), grad_upper(size);
  for (int i = 0; i < size; ++i) p.data[i] = i % channels == channels - 1 - i / channels ? T(1) : T(0);
  for (int i = 0; i < channels; ++i) sign_s.data[i] = i % 2 == 0 ? T(1) : T(-1);
  for (int i = 0; i < size; ++i) lower.data[i] *= T(0.1), upper.data[i] *= T(0.1);
  const Buffer<double> inverse(size), grad_inverse(size, 5);
  const PluFactors factors{
      dtype, channels, p.data.get(), lower.data.get(), log_s.data.get(), sign_s.data.get(), upper.data.get()};
  const auto loss = [&] {
    cpu::plu_weight({factors, false, weight.data.get(), inverse.data.get()});
    double sum = 0;
    for (int i = 0; i < size; ++i) {
      sum += static_cast<double>(grad.data[i]) * static_cast<double>(weight.data[i]);
      sum += grad_inverse.data[i] * inverse.data[i];
    }
    return sum;
  };
  loss();
  for (int i = 0; i < size; ++i) {
    double sum = i % channels == i / channels ? -1 : 0;
    for (int k = 0; k < channels; ++k) {
      sum += static_cast<double>(weight.data[i / channels * channels + k]) * inverse.data[k * channels + i % channels];
    }
    expect(std::abs(sum) < 1e-9, "plu_weight: inverse");
  }
  const Buffer<double> at(size);
  for (int i = 0; i < size; ++i) at.data[i] = inverse.data[i];
  cpu::plu_weight_backward({factors, dtype, grad.data.get(), grad_inverse.data.get(), at.data.get(),
                            grad_lower.data.get(), grad_log_s.data.get(), grad_upper.data.get()});
  if (sizeof(T) == 4) return;  // too coarse for differences
  const auto differentiated = [&](T& parameter, T found, const char* what) {
    const T before = parameter, step = T(1e-6);
    parameter = before + step;
    const double above = loss();
    parameter = before - step;
    const double slope = (above - loss()) / (2 * static_cast<double>(step));
    parameter = before;
    expect(std::abs(slope - static_cast<double>(found)) < 1e-4 * (1 + std::abs(slope)), what);
  };
  for (int i = 0; i < size; ++i) {
    differentiated(lower.data[i], grad_lower.data[i], "plu_weight_backward: grad_lower");
    differentiated(upper.data[i], grad_upper.data[i], "plu_weight_backward: grad_upper");
  }
  for (int i = 0; i < channels; ++i) {
    differentiated(log_s.data[i], grad_log_s.data[i], "plu_weight_backward: grad_log_s");
  }
}

template <typename T>
void test_all(DType dtype) {
  for (const int channels : {1, 2, 3, 5}) test_plu<T>(dtype, channels);
  for (const std::int64_t inner : {1, 7, 64, 101}) {
    test_coupling<T>(dtype, 1, inner, inner, 1000);
    test_coupling<T>(dtype, 3, inner, 2 * inner + 1, 17);
  }
  for (const std::int64_t channels : {1, 2, 3, 4, 5, 16}) {
    for (const std::int64_t pixels : {1, 33, 1024, 1030}) test_mix<T>(dtype, 2, channels, pixels);
  }
}

}  // namespace

int main() {
  test_all<float>(DType::kFloat32);
  test_all<double>(DType::kFloat64);
  for (const std::int64_t inner : {1, 7, 64, 101}) {
    test_round_state(1, inner, inner, 1000);
    test_round_state(3, inner, 2 * inner + 1, 17);
  }
  std::printf(failures == 0 ? "all right\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
