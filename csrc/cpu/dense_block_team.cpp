#include "dense_block_team.h"

#include <chrono>
#include <thread>

namespace ivan_fast::cpu::dense {
namespace {

constexpr int kSpins = 4096;  // some ten microseconds: then another thread may need this core more
constexpr std::chrono::milliseconds kPatience{1};

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

Team::Role Team::join() {
  if (parts_ == 1) return Role::kAll;
  int joined = joined_.load(std::memory_order_acquire);
  do {
    if (joined < 0) return Role::kNone;
  } while (!joined_.compare_exchange_weak(joined, joined + 1, std::memory_order_acq_rel));
  const auto start = std::chrono::steady_clock::now();
  for (int spins = 1;; ++spins) {
    joined = joined_.load(std::memory_order_acquire);
    if (joined == parts_) return Role::kPart;
    if (joined < 0) return Role::kNone;
    pause();
    if (spins % 64 != 0) continue;
    if (std::chrono::steady_clock::now() - start < kPatience)
      std::this_thread::yield();
    else if (joined_.compare_exchange_strong(joined, -1, std::memory_order_acq_rel))
      return Role::kAll;
  }
}

void Team::wait() {
  const uint32_t round = round_.load(std::memory_order_relaxed);
  if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == parts_) {
    waiting_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
    if (spins < kSpins)
      pause();
    else
      std::this_thread::yield();
}

}  // namespace ivan_fast::cpu::dense
