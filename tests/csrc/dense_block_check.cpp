// Runs the dense block's kernels over awkward shapes, with and without a coupling in the backward, for the address and
// undefined-behaviour sanitizers, and checks that the backward's output has the forward's bits, whatever the threads
// and the workspace. Prints one line and returns 0 where all is well.
#include <cmath>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

#include "ivan_fast/dense_block.h"

namespace {

using ivan_fast::DenseBlockBackwardParams;
using ivan_fast::DenseBlockParams;
using ivan_fast::DenseBlockRounding;
using ivan_fast::DenseBlockShape;

void one_by_one(int64_t count, void (*body)(int64_t, void*), void* context) {
  for (int64_t i = 0; i < count; ++i) body(i, context);
}

void all_at_once(int64_t count, void (*body)(int64_t, void*), void* context) {
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < count; ++i) threads.emplace_back(body, i, context);
  for (std::thread& thread : threads) thread.join();
}

// Threads of a team really beside each other, or, as in a nested parallel loop, one after the other.
struct Way {
  int threads;
  ivan_fast::cpu::ParallelFor parallel_for;
};
const Way kWays[] = {{1, one_by_one}, {3, one_by_one}, {3, all_at_once}};

template <typename T>
struct Call {
  std::mt19937 random{1};
  std::vector<T> x, y, grad_y, grad_x;
  std::vector<std::vector<T>> weights, biases, grad_weights, grad_biases;
  std::vector<const void*> weight_data, bias_data;
  std::vector<void*> grad_weight_data, grad_bias_data;
  DenseBlockBackwardParams params{};

  // Exactly as many values as the op may touch, so that the sanitizer sees every step outside.
  std::vector<T> values(int64_t count) {
    std::vector<T> v(static_cast<size_t>(count));
    for (T& value : v) value = T(std::normal_distribution<double>()(random)) * T(0.1);
    return v;
  }

  explicit Call(const DenseBlockShape& s) {
    const int64_t pixels = s.batch * s.height * s.width;
    x = values(pixels * s.in_channels);
    grad_x = x;
    grad_y = values(pixels * s.out_channels);
    y = grad_y;
    for (int64_t i = 0; i < s.depth; ++i) {
      const int64_t outputs = i + 1 == s.depth ? s.out_channels : s.growth;
      weights.push_back(values(outputs * (s.in_channels + i * s.growth) * 9));
      biases.push_back(values(outputs));
    }
    grad_weights = weights;
    grad_biases = biases;
    for (size_t i = 0; i < weights.size(); ++i) {
      weight_data.push_back(weights[i].data());
      bias_data.push_back(biases[i].data());
      grad_weight_data.push_back(grad_weights[i].data());
      grad_bias_data.push_back(grad_biases[i].data());
    }
    DenseBlockParams& p = params.forward;
    p.shape = s;
    p.dtype = sizeof(T) == 8 ? ivan_fast::DType::kFloat64 : ivan_fast::DType::kFloat32;
    p.negative_slope = 0.2;
    p.x = {x.data(), s.in_channels * s.height * s.width};
    p.weights = weight_data.data();
    p.biases = bias_data.data();
    p.y = y.data();
    params.grad_y = {grad_y.data(), s.out_channels * s.height * s.width};
    params.grad_x = grad_x.data();
    params.grad_weights = grad_weight_data.data();
    params.grad_biases = grad_bias_data.data();
  }
};

// The coupling in the stream, with a state of type S: the inverse walk's x2 e^s must be that of the forward's h.
template <typename S, typename T>
bool check_walk(Call<T>& call, const DenseBlockShape& shape, const std::vector<T>& h) {
  if (sizeof(S) < sizeof(T)) return true;
  std::vector<S> state(h.size()), out(h.size()), grad_state(h.size());
  for (size_t i = 0; i < h.size(); ++i) state[i] = S(call.grad_y[i]);
  const int64_t stride = shape.out_channels * shape.height * shape.width;
  ivan_fast::DenseBlockCoupling& c = call.params.coupling;
  c.dtype = sizeof(S) == 8 ? ivan_fast::DType::kFloat64 : ivan_fast::DType::kFloat32;
  c.clamp = 0.8;
  c.state = c.g = c.grad = {state.data(), stride};
  c.out = out.data();
  c.grad_state = grad_state.data();
  bool right = true;
  for (const auto [threads, parallel_for] : kWays)
    for (const size_t workspace : {size_t{1} << 26, size_t{1}})
      for (const ivan_fast::CouplingWalk walk :
           {ivan_fast::CouplingWalk::kForward, ivan_fast::CouplingWalk::kInverse}) {
        ivan_fast::cpu::set_dense_block_workspace(workspace);
        c.walk = walk;
        ivan_fast::cpu::dense_block_backward(call.params, threads, parallel_for);
        if (walk == ivan_fast::CouplingWalk::kForward) continue;
        for (size_t i = 0; i < h.size(); ++i) {
          const double s = 0.8 * std::tanh(double(h[i]) / 2), expected = double(state[i]) * std::exp(s);
          right = right && std::abs(double(out[i]) - expected) <= (sizeof(S) == 8 ? 1e-14 : 1e-6) * std::abs(expected);
        }
      }
  c = {};
  return right;
}

template <typename T>
bool check(const DenseBlockShape& shape, bool winograd, DenseBlockRounding rounding) {
  Call<T> call(shape);
  call.params.forward.winograd = winograd;
  call.params.forward.rounding = rounding;
  std::vector<T> first;
  for (const auto [threads, parallel_for] : kWays)
    for (const size_t workspace : {size_t{1} << 26, size_t{1}}) {
      ivan_fast::cpu::set_dense_block_workspace(workspace);
      ivan_fast::cpu::dense_block_forward(call.params.forward, threads, parallel_for);
      const std::vector<T> forward = call.y;
      if (first.empty()) first = forward;
      call.y.assign(call.y.size(), T(0));
      ivan_fast::cpu::dense_block_backward(call.params, threads, parallel_for);
      if (call.y != forward || forward != first) return false;
    }
  return check_walk<float>(call, shape, first) && check_walk<double>(call, shape, first);
}

}  // namespace

int main() {
  // batch, in, out, growth, depth, height, width
  const DenseBlockShape shapes[] = {{1, 1, 1, 32, 5, 9, 16}, {1, 2, 3, 8, 5, 1, 1},   {2, 3, 2, 4, 5, 9, 7},
                                    {1, 1, 9, 40, 5, 2, 5},  {1, 17, 1, 3, 3, 6, 1},  {1, 16, 16, 8, 5, 3, 4},
                                    {1, 2, 1, 8, 6, 5, 90},  {2, 1, 2, 32, 1, 3, 13}, {1, 1, 1, 33, 2, 4, 6}};
  int runs = 0;
  for (const DenseBlockShape& shape : shapes) {
    if (!check<float>(shape, false, DenseBlockRounding::kNone) ||
        !check<float>(shape, true, DenseBlockRounding::kNone) ||
        !check<float>(shape, false, DenseBlockRounding::kBFloat16) ||
        !check<float>(shape, false, DenseBlockRounding::kFloat16) ||
        !check<double>(shape, false, DenseBlockRounding::kNone)) {
      std::printf("dense block %d: other bits\n", runs);
      return 1;
    }
    ++runs;
  }
  std::printf("%d dense blocks\n", runs);
  return 0;
}
