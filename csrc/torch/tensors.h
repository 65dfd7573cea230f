// What every binding needs of torch: checks with readable messages, memory layouts, work sharing, the current stream.
#pragma once
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <sstream>
#include <stdexcept>
#include <string>

#include "ivan_fast/types.h"

namespace ivan_fast {

using torch::stable::Tensor;

// Throws std::runtime_error (RuntimeError in Python) with the message put together from the parts.
template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline std::string shape_of(const Tensor& t) {
  std::ostringstream text;
  text << '[';
  for (int64_t d = 0; d < t.dim(); ++d) text << (d ? ", " : "") << t.size(d);
  text << ']';
  return text.str();
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != b.size(d)) return false;
  }
  return true;
}

// float32 or float64: the types of the state.
inline DType state_dtype(const char* op, const char* name, const Tensor& t) {
  const auto type = t.scalar_type();
  if (type == torch::headeronly::ScalarType::Float) return DType::kFloat32;
  check(type == torch::headeronly::ScalarType::Double, op, ": ", name,
        " must be float32 or float64 (under torch.autocast lower precisions are converted); found ",
        torch::headeronly::toString(type));
  return DType::kFloat64;
}

// `t` must have the dtype and the device of `state`, the op's first argument.
inline void check_alike(const char* op, const char* state_name, const Tensor& state, const char* name,
                        const Tensor& t) {
  check(t.scalar_type() == state.scalar_type(), op, ": ", name, " is ", torch::headeronly::toString(t.scalar_type()),
        " but ", state_name, " is ", torch::headeronly::toString(state.scalar_type()), "; they must be the same");
  check(t.device() == state.device(), op, ": ", name, " and ", state_name, " are on different devices");
}

inline void check_same_shape(const char* op, const char* state_name, const Tensor& state, const char* name,
                             const Tensor& t) {
  check(same_shape(t, state), op, ": ", name, " has shape ", shape_of(t), " but ", state_name, " has ", shape_of(state),
        "; they must be the same");
}

// Whether each sample is contiguous: true of channel slices of a contiguous tensor, whatever their batch stride.
inline bool samples_contiguous(const Tensor& t) {
  int64_t expected = 1;
  for (int64_t d = t.dim() - 1; d >= 1; --d) {
    if (t.size(d) != 1 && t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

// `t`, or a contiguous copy where its samples are not contiguous.
inline Tensor with_contiguous_samples(const Tensor& t) {
  return t.numel() == 0 || samples_contiguous(t) ? t : torch::stable::contiguous(t);
}

inline Input as_input(const Tensor& t) { return {t.const_data_ptr(), t.dim() > 0 ? t.stride(0) : 0}; }

// A new contiguous tensor of t's dtype and device.
inline Tensor empty_as(const Tensor& t) { return torch::stable::new_empty(t, t.sizes()); }

// The stream that torch is using on t's device; a device guard must be held for the launch.
void* current_cuda_stream(const Tensor& t);

#ifdef IVAN_FAST_WITH_CUDA
// t's device and torch's current stream there, as long as this lives. t decides where an op runs: it may be on the CPU
// while others are not.
struct OnCudaStream {
  torch::stable::accelerator::DeviceGuard guard;
  void* stream;
  explicit OnCudaStream(const Tensor& t) : guard(checked_device(t)), stream(current_cuda_stream(t)) {}

 private:
  static torch::stable::accelerator::DeviceIndex checked_device(const Tensor& t) {
    check(t.is_cuda(),
          "ivan_fast: the op's first tensor is on the CPU, but others are on a CUDA device; all must be on one");
    return t.get_device_index();
  }
};
#endif

}  // namespace ivan_fast
