#include "heap.h"

#include <cstdlib>
#include <initializer_list>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace ivan_fast::cpu {

bool return_large_blocks() {
#if defined(__GLIBC__)
  for (const char* name : {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES"})
    if (std::getenv(name) != nullptr) return false;
  // With a fixed bound the other one no longer follows it, and would stay at 128 KiB.
  return mallopt(M_MMAP_THRESHOLD, 2 << 20) == 1 && mallopt(M_TRIM_THRESHOLD, 8 << 20) == 1;
#else
  return false;
#endif
}

}  // namespace ivan_fast::cpu
