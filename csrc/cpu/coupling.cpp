#include "ivan_fast/coupling.h"

#include "isa.h"

namespace ivan_fast::cpu {

IVAN_ISA_DECLARE(void affine_coupling(const CouplingParams& params, std::int64_t begin, std::int64_t end))

void affine_coupling(const CouplingParams& params, std::int64_t begin, std::int64_t end) {
  IVAN_ISA_CALL(affine_coupling(params, begin, end));
}

}  // namespace ivan_fast::cpu
