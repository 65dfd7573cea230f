// The schemas of all ops, the one place they are written. Their kernels are registered beside their bindings.
#include "tensors.h"

STABLE_TORCH_LIBRARY(ivan_fast, m) {
  m.def("affine_coupling_forward(Tensor x, Tensor h, Tensor g, float clamp) -> Tensor");
  m.def("affine_coupling_inverse(Tensor y, Tensor h, Tensor g, float clamp) -> Tensor");
  m.def("affine_coupling_backward(Tensor grad_y, Tensor x, Tensor h, float clamp) -> (Tensor grad_x, Tensor grad_h)");
  m.def(
      "affine_coupling_inverse_backward(Tensor grad_x, Tensor x, Tensor h, float clamp) -> (Tensor grad_y, Tensor "
      "grad_h)");
  m.def(
      "affine_coupling_recompute_backward(Tensor y, Tensor h, Tensor g, Tensor grad_y, float clamp)"
      " -> (Tensor x, Tensor grad_x, Tensor grad_h)");
  m.def("channel_mix(Tensor x, Tensor weight) -> Tensor");
  m.def("channel_mix_backward(Tensor grad_y, Tensor x, Tensor weight) -> (Tensor grad_x, Tensor grad_weight)");
  m.def(
      "plu_weight(Tensor p, Tensor lower, Tensor log_s, Tensor sign_s, Tensor upper, bool wide=False)"
      " -> (Tensor weight, Tensor inverse)");
  m.def(
      "plu_weight_backward(Tensor? grad_weight, Tensor? grad_inverse, Tensor? inverse, Tensor p, Tensor lower, "
      "Tensor log_s, Tensor sign_s, Tensor upper) -> (Tensor grad_lower, Tensor grad_log_s, Tensor grad_upper)");
  m.def("round_state(Tensor x, Tensor steps) -> Tensor");
  m.def("dense_block(Tensor x, Tensor[] weights, Tensor[] biases, float negative_slope, str compute) -> Tensor");
  m.def(
      "dense_block_backward(Tensor grad_y, Tensor x, Tensor[] weights, Tensor[] biases, float negative_slope, str "
      "compute)"
      " -> (Tensor y, Tensor grad_x, Tensor[] grad_weights, Tensor[] grad_biases)");
  m.def(
      "dense_block_coupling_backward(Tensor y2, Tensor g, Tensor grad_y2, Tensor x, Tensor[] weights, Tensor[] biases, "
      "float clamp, float negative_slope, str compute)"
      " -> (Tensor x2, Tensor grad_x2, Tensor grad_x, Tensor[] grad_weights, Tensor[] grad_biases)");
  m.def(
      "dense_block_coupling_inverse_backward(Tensor x2, Tensor grad_x2, Tensor x, Tensor[] weights, Tensor[] biases, "
      "float clamp, float negative_slope, str compute)"
      " -> (Tensor scaled, Tensor grad_y2, Tensor grad_x, Tensor[] grad_weights, Tensor[] grad_biases)");
  // G and H of a coupling, two dense blocks of one shape, in the same launches. Compiled for CUDA; on the CPU they are
  // put together of the ops above (ivan_fast/_dense_block_pair.py).
#define IVAN_PAIR "Tensor x, Tensor[] weights_g, Tensor[] biases_g, Tensor[] weights_h, Tensor[] biases_h"
#define IVAN_PAIR_GRADIENTS \
  "Tensor grad_x, Tensor[] grad_weights_g, Tensor[] grad_biases_g, Tensor[] grad_weights_h, Tensor[] grad_biases_h)"
  m.def("dense_block_pair(" IVAN_PAIR ", float negative_slope, str compute) -> (Tensor g, Tensor h)");
  m.def("dense_block_pair_backward(Tensor grad_g, Tensor grad_h, " IVAN_PAIR
        ", float negative_slope, str compute) -> (" IVAN_PAIR_GRADIENTS);
  m.def("dense_block_pair_coupling_backward(Tensor y2, Tensor grad_y2, " IVAN_PAIR
        ", float clamp, float negative_slope, str compute) -> (Tensor x2, Tensor grad_x2, " IVAN_PAIR_GRADIENTS);
  m.def("dense_block_pair_coupling_inverse_backward(Tensor x2, Tensor grad_x2, " IVAN_PAIR
        ", float clamp, float negative_slope, str compute) -> (Tensor y2, Tensor grad_y2, " IVAN_PAIR_GRADIENTS);
}

#ifdef IVAN_FAST_WITH_CUDA
// Part of libtorch_cuda. Weak, so that this library also loads under a torch without CUDA.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                   void** ret_stream);

void* ivan_fast::current_cuda_stream(const Tensor& t) {
  check(aoti_torch_get_current_cuda_stream != nullptr, "ivan_fast: this torch has no CUDA support");
  void* stream = nullptr;
  check(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream) == 0,
        "ivan_fast: torch gave no CUDA stream for device ", static_cast<int>(t.get_device_index()));
  return stream;
}
#endif
