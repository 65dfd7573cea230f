// Arguments of the dense block ops: checked, made contiguous, and outputs of their shapes. For CPU and CUDA alike.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "ivan_fast/dense_block.h"
#include "tensors.h"

namespace ivan_fast {

using Tensors = std::vector<Tensor>;

inline DenseBlockRounding rounding_of(const char* op, const std::string& compute) {
  if (compute == "bf16") return DenseBlockRounding::kBFloat16;
  if (compute == "fp16") return DenseBlockRounding::kFloat16;
  check(compute == "strict" || compute == "fast" || compute == "tf32", op, ": compute is '", compute,
        "', expected strict, fast, bf16, fp16 or tf32");
  return DenseBlockRounding::kNone;
}

inline void check_parameter(const char* op, const Tensor& x, const char* name, size_t i, const Tensor& t,
                            const std::vector<int64_t>& expected) {
  const std::string label = std::string(name) + "[" + std::to_string(i) + "]";
  check_alike(op, "x", x, label.c_str(), t);
  bool right = t.dim() == int64_t(expected.size());
  std::ostringstream text;
  for (size_t d = 0; d < expected.size(); ++d) {
    right = right && t.size(int64_t(d)) == expected[d];
    text << (d ? ", " : "") << expected[d];
  }
  check(right, op, ": ", label, " has shape ", shape_of(t), ", expected [", text.str(), "]");
}

// Sizes from the tensors, and every tensor checked against them.
inline DenseBlockShape checked_shape(const char* op, const Tensor& x, const Tensors& weights, const Tensors& biases) {
  check(x.dim() == 4, op, ": x has shape ", shape_of(x), ", expected [N, C, H, W]");
  check(!weights.empty() && weights.size() == biases.size(), op, ": ", weights.size(), " weights and ", biases.size(),
        " biases, expected equally many, at least 1");
  DenseBlockShape s{};
  s.batch = x.size(0);
  s.in_channels = x.size(1);
  s.height = x.size(2);
  s.width = x.size(3);
  s.depth = int64_t(weights.size());
  check(weights.front().dim() == 4 && weights.back().dim() == 4, op, ": weights must be [out, in, 3, 3]");
  s.out_channels = weights.back().size(0);
  s.growth = s.depth > 1 ? weights.front().size(0) : 1;
  for (size_t i = 0; i < weights.size(); ++i) {
    const int64_t outputs = int64_t(i) + 1 == s.depth ? s.out_channels : s.growth;
    check_parameter(op, x, "weights", i, weights[i], {outputs, s.in_channels + int64_t(i) * s.growth, 3, 3});
    check_parameter(op, x, "biases", i, biases[i], {outputs});
  }
  return s;
}

// Contiguous copies where needed, kept alive for the call, and their addresses.
struct Parameters {
  Tensors kept;
  std::vector<const void*> data;
  explicit Parameters(const Tensors& tensors) {
    for (const Tensor& t : tensors) {
      kept.push_back(torch::stable::contiguous(t));
      data.push_back(kept.back().const_data_ptr());
    }
  }
};

struct Outputs {
  Tensors tensors;
  std::vector<void*> data;
  explicit Outputs(const Tensors& like) {
    for (const Tensor& t : like) {
      tensors.push_back(empty_as(t));
      data.push_back(tensors.back().mutable_data_ptr());
    }
  }
};

inline Tensor empty_output(const Tensor& x, const DenseBlockShape& s) {
  const int64_t sizes[] = {s.batch, s.out_channels, s.height, s.width};
  return torch::stable::new_empty(x, {sizes, 4});
}

inline void check_output_shape(const char* op, const DenseBlockShape& s, const char* name, const Tensor& t) {
  const int64_t expected[] = {s.batch, s.out_channels, s.height, s.width};
  bool right = t.dim() == 4;
  for (int d = 0; right && d < 4; ++d) right = t.size(d) == expected[d];
  check(right, op, ": ", name, " has shape ", shape_of(t), ", expected [", s.batch, ", ", s.out_channels, ", ",
        s.height, ", ", s.width, "]");
}

// The gradient of an output, which the caller keeps alive: [N, out_channels, H, W], of x's dtype.
inline Tensor checked_gradient(const char* op, const Tensor& x, const DenseBlockShape& s, const char* name,
                               const Tensor& t, Input& input) {
  check_alike(op, "x", x, name, t);
  check_output_shape(op, s, name, t);
  Tensor kept = with_contiguous_samples(t);
  input = as_input(kept);
  return kept;
}

// A tensor of the coupled half of the state, which the caller keeps alive: [N, out_channels, H, W], of the dense
// block's dtype or float64, all of them alike.
inline Tensor checked_half(const char* op, const Tensor& x, const DenseBlockShape& s, const char* first_name,
                           const Tensor& first, const char* name, const Tensor& t, Input& input) {
  check_output_shape(op, s, name, t);
  check_alike(op, first_name, first, name, t);
  check(state_dtype(op, name, t) == DType::kFloat64 || t.scalar_type() == x.scalar_type(), op, ": ", name, " is ",
        torch::headeronly::toString(t.scalar_type()), " but x is ", torch::headeronly::toString(x.scalar_type()),
        "; the state is of the dtype of x or float64");
  check(t.device() == x.device(), op, ": ", name, " and x are on different devices");
  Tensor kept = with_contiguous_samples(t);
  input = as_input(kept);
  return kept;
}

// What a walk back through a coupling reads of the state and writes of it. Lives as long as the call.
struct WalkedState {
  Tensor kept_state, kept_grad, out, grad_state;

  WalkedState(const char* op, CouplingWalk kind, const Tensor& x, const DenseBlockShape& shape, const char* state_name,
              const Tensor& state, const char* grad_name, const Tensor& grad, double clamp,
              DenseBlockCoupling& coupling) {
    check(std::isfinite(clamp) && clamp >= 0, op, ": clamp is ", clamp, ", expected a finite number >= 0");
    kept_state = checked_half(op, x, shape, state_name, state, state_name, state, coupling.state);
    kept_grad = checked_half(op, x, shape, state_name, state, grad_name, grad, coupling.grad);
    out = empty_as(state);
    grad_state = empty_as(state);
    coupling.walk = kind;
    coupling.dtype = state_dtype(op, state_name, state);
    coupling.clamp = clamp;
    coupling.out = out.mutable_data_ptr();
    coupling.grad_state = grad_state.mutable_data_ptr();
  }
};

}  // namespace ivan_fast
