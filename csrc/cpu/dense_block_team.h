// Threads that share one tile: each computes its own columns, and all wait for each other after every row of every
// level, because a level reads one pixel beyond its columns. That costs no halo, and the rings are there once.
#pragma once

#include <atomic>
#include <cstdint>

namespace ivan_fast::cpu::dense {

class Team {
 public:
  explicit Team(int parts) : parts_(parts) {}

  enum class Role { kPart, kAll, kNone };

  // Called once by each of `parts` workers before it starts. kPart: all are there at the same time. A caller's
  // parallel loop may run its iterations one after the other; the others are then not waited for longer than a
  // millisecond, and this worker does the work of all (kAll), the late ones none (kNone). The results are the same.
  Role join();

  // Returns when all parts have called it as often as this one.
  void wait();

 private:
  const int parts_;
  alignas(64) std::atomic<int> joined_{0};
  alignas(64) std::atomic<int> waiting_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
};

}  // namespace ivan_fast::cpu::dense
