#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace ivan_fast::cpu {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kPortable:
      break;
  }
  return "portable";
}

bool isa_supported(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAvx512:
      return isa_supported(Isa::kAvx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kPortable:
      break;
  }
#endif
  return isa == Isa::kPortable;
}

const char* forced_isa() {
  const char* value = std::getenv("IVAN_FAST_CPU_ISA");
  return value != nullptr && *value != '\0' ? value : nullptr;
}

static Isa choose_isa() {
  const char* forced = forced_isa();
  for (int i = kIsaCount - 1; i >= 0; --i) {
    const Isa isa = static_cast<Isa>(i);
    if (forced == nullptr) {
      if (isa_supported(isa)) return isa;
    } else if (std::string(forced) == isa_name(isa)) {
      if (isa_supported(isa)) return isa;
      throw std::runtime_error(std::string("IVAN_FAST_CPU_ISA=") + forced +
                               ": this machine or this build does not support it; unset it to use the best one");
    }
  }
  throw std::runtime_error(std::string("IVAN_FAST_CPU_ISA=") + forced + ": expected portable, avx2 or avx512");
}

Isa active_isa() {
  static const Isa isa = choose_isa();
  return isa;
}

}  // namespace ivan_fast::cpu
