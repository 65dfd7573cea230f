// Instruction sets. A kernel that gains from wider vectors is one source file, compiled once for each set with
// -DIVAN_ISA=portable|avx2|avx512 and that set's flags, its functions in namespace ivan_fast::cpu::IVAN_ISA. Beside it
// a plain file declares them with IVAN_ISA_DECLARE and picks one at run time with IVAN_ISA_CALL.
#pragma once

namespace ivan_fast::cpu {

enum class Isa : int { kPortable, kAvx2, kAvx512 };
constexpr int kIsaCount = 3;

// "portable", "avx2" (with FMA), "avx512" (F, VL, DQ, BW): also the values of the environment's IVAN_FAST_CPU_ISA.
const char* isa_name(Isa isa);

// Whether this build has kernels for the set and this machine and operating system run them.
bool isa_supported(Isa isa);

// The value of IVAN_FAST_CPU_ISA, or nullptr where it is unset or empty.
const char* forced_isa();

// The set in use: the forced one, else the best supported. Read once. Throws std::runtime_error where the forced one is
// unknown or not supported.
Isa active_isa();

}  // namespace ivan_fast::cpu

#if defined(__x86_64__)
#define IVAN_ISA_DECLARE(...) \
  namespace portable {        \
  __VA_ARGS__;                \
  }                           \
  namespace avx2 {            \
  __VA_ARGS__;                \
  }                           \
  namespace avx512 {          \
  __VA_ARGS__;                \
  }
#define IVAN_ISA_CALL(...)                  \
  switch (::ivan_fast::cpu::active_isa()) { \
    case ::ivan_fast::cpu::Isa::kAvx512:    \
      return avx512::__VA_ARGS__;           \
    case ::ivan_fast::cpu::Isa::kAvx2:      \
      return avx2::__VA_ARGS__;             \
    case ::ivan_fast::cpu::Isa::kPortable:  \
      break;                                \
  }                                         \
  return portable::__VA_ARGS__
#else
#define IVAN_ISA_DECLARE(...) \
  namespace portable {        \
  __VA_ARGS__;                \
  }
#define IVAN_ISA_CALL(...) return portable::__VA_ARGS__
#endif
