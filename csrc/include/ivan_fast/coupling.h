// Affine coupling: parameters and entry points of the five ops on the coupled half of the state (formulas: scalar.h).
#pragma once
#include <cstdint>

#include "ivan_fast/scalar.h"
#include "ivan_fast/types.h"

namespace ivan_fast {

struct CouplingParams {
  CouplingOp op;
  DType dtype;
  std::int64_t batch;  // N
  std::int64_t inner;  // C2 * H * W
  double clamp;
  Input state;                 // x, or y for inverse and recompute_backward [N, inner]
  Input h;                     // [N, inner]
  Input g;                     // [N, inner]; forward, inverse, recompute_backward
  Input grad;                  // gradient of the op's output [N, inner]; *_backward
  void* out = nullptr;         // y or x [N, inner], contiguous; forward, inverse, recompute_backward
  void* grad_state = nullptr;  // [N, inner], contiguous; *_backward
  void* grad_h = nullptr;      // [N, inner], contiguous; *_backward
};

namespace cpu {
// Elements begin..end of the N * inner, so that the caller can share them out among threads.
void affine_coupling(const CouplingParams& params, std::int64_t begin, std::int64_t end);
}  // namespace cpu

namespace cuda {
// On the current device, on `stream` (a cudaStream_t).
void affine_coupling(const CouplingParams& params, void* stream);
}  // namespace cuda

}  // namespace ivan_fast
