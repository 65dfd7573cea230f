// Rounding of the state on the CPU; compiled once for each instruction set (isa.h). The loop is left to the vectoriser.
#include "ivan_fast/round_state.h"

namespace ivan_fast::cpu::IVAN_ISA {
namespace {

void run(const double* __restrict x, double step, float* __restrict out, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = rounded_to(x[i], step);
}

}  // namespace

void round_state(const RoundStateParams& p, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end;) {
    const std::int64_t sample = i / p.inner, offset = i % p.inner;
    const std::int64_t count = (p.inner - offset < end - i) ? p.inner - offset : end - i;
    run(static_cast<const double*>(p.x.data) + sample * p.x.batch_stride + offset, p.steps[sample], p.out + i, count);
    i += count;
  }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
