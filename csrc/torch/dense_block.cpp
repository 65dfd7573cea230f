// Binding of the dense block ops. CPU only: ivan_fast/_dense_block.py registers what CUDA tensors do.
#include "ivan_fast/dense_block.h"

#include <tuple>
#include <vector>

#include "tensors.h"

namespace ivan_fast {
namespace {

using Tensors = std::vector<Tensor>;

void parallel_for(int64_t count, void (*body)(int64_t, void*), void* context) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i, context);
  });
}

DenseBlockRounding rounding_of(const char* op, const std::string& compute) {
  if (compute == "bf16") return DenseBlockRounding::kBFloat16;
  if (compute == "fp16") return DenseBlockRounding::kFloat16;
  check(compute == "strict" || compute == "fast" || compute == "tf32", op, ": compute is '", compute,
        "', expected strict, fast, bf16, fp16 or tf32");
  return DenseBlockRounding::kNone;
}

void check_parameter(const char* op, const Tensor& x, const char* name, size_t i, const Tensor& t,
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
DenseBlockShape checked_shape(const char* op, const Tensor& x, const Tensors& weights, const Tensors& biases) {
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

Tensor empty_output(const Tensor& x, const DenseBlockShape& s) {
  const int64_t sizes[] = {s.batch, s.out_channels, s.height, s.width};
  return torch::stable::new_empty(x, {sizes, 4});
}

Tensor dense_block(const Tensor& x, const Tensors& weights, const Tensors& biases, double negative_slope,
                   const std::string& compute) {
  const char* op = "dense_block";
  DenseBlockParams params{};
  params.dtype = state_dtype(op, "x", x);
  params.rounding = rounding_of(op, compute);
  params.winograd = compute == "fast";
  params.shape = checked_shape(op, x, weights, biases);
  params.negative_slope = negative_slope;
  const Tensor kept_x = with_contiguous_samples(x);
  const Parameters kept_weights(weights), kept_biases(biases);
  Tensor y = empty_output(x, params.shape);
  params.x = as_input(kept_x);
  params.weights = kept_weights.data.data();
  params.biases = kept_biases.data.data();
  params.y = y.mutable_data_ptr();
  cpu::dense_block_forward(params, int(torch::stable::get_num_threads()), parallel_for);
  return y;
}

std::tuple<Tensor, Tensor, Tensors, Tensors> dense_block_backward(const Tensor& grad_y, const Tensor& x,
                                                                  const Tensors& weights, const Tensors& biases,
                                                                  double negative_slope, const std::string& compute) {
  const char* op = "dense_block_backward";
  DenseBlockBackwardParams params{};
  DenseBlockParams& forward = params.forward;
  forward.dtype = state_dtype(op, "x", x);
  forward.rounding = rounding_of(op, compute);
  forward.winograd = compute == "fast";
  forward.shape = checked_shape(op, x, weights, biases);
  forward.negative_slope = negative_slope;
  Tensor y = empty_output(x, forward.shape), grad_x = empty_as(x);
  check_alike(op, "x", x, "grad_y", grad_y);
  check(same_shape(grad_y, y), op, ": grad_y has shape ", shape_of(grad_y), ", expected ", shape_of(y));
  const Tensor kept_x = with_contiguous_samples(x), kept_grad = with_contiguous_samples(grad_y);
  const Parameters kept_weights(weights), kept_biases(biases);
  Outputs grad_weights(weights), grad_biases(biases);
  forward.x = as_input(kept_x);
  forward.weights = kept_weights.data.data();
  forward.biases = kept_biases.data.data();
  forward.y = y.mutable_data_ptr();
  params.grad_y = as_input(kept_grad);
  params.grad_x = grad_x.mutable_data_ptr();
  params.grad_weights = grad_weights.data.data();
  params.grad_biases = grad_biases.data.data();
  cpu::dense_block_backward(params, int(torch::stable::get_num_threads()), parallel_for);
  return {y, grad_x, grad_weights.tensors, grad_biases.tensors};
}

}  // namespace
}  // namespace ivan_fast

STABLE_TORCH_LIBRARY_IMPL(ivan_fast, CPU, m) {
  m.impl("dense_block", TORCH_BOX(&ivan_fast::dense_block));
  m.impl("dense_block_backward", TORCH_BOX(&ivan_fast::dense_block_backward));
}
