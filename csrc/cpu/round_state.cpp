#include "ivan_fast/round_state.h"

#include "isa.h"

namespace ivan_fast::cpu {

IVAN_ISA_DECLARE(void round_state(const RoundStateParams& params, std::int64_t begin, std::int64_t end))

void round_state(const RoundStateParams& params, std::int64_t begin, std::int64_t end) {
  IVAN_ISA_CALL(round_state(params, begin, end));
}

}  // namespace ivan_fast::cpu
