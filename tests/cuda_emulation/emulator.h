// State of the emulation, shared by its sources; kernels see cuda_runtime.h only.
#pragma once
#include <cstdint>
#include <deque>
#include <vector>

#include "cuda_runtime.h"
#include "fiber.h"

namespace cuda_emulation {

constexpr std::size_t kStackBytes = 128 << 10;

// One cp.async: `bytes` are copied and `zeros` follow them. It happens as late as its wait allows.
struct Copy {
  char* to;
  const char* from;
  int bytes, zeros;
};

enum class State { kRunning, kBlock, kWarp, kDone };

struct Thread {
  uint3 index;
  int linear;  // within the block
  State state;
  int vote;  // of __syncthreads_count
  // The warp collective it waits at.
  const char* operation;
  unsigned mask;
  const void* in;
  void* out;
  Combine combine;
  std::vector<Copy> copies;              // cp.async since the last commit
  std::deque<std::vector<Copy>> groups;  // committed groups, oldest first
  Fiber fiber;
  char* stack;
  void* fake_stack;  // of the address sanitizer
};

struct Block {
  std::uint32_t number;  // within the grid
  char* dynamic;
  std::size_t dynamic_bytes;
  std::vector<Thread> threads;
  int waiting;  // threads at __syncthreads
  int votes;
};

extern Thread* current;  // null outside kernels
extern Block block;
extern std::int64_t bank_conflicts;  // pairs of rows that ldmatrix must read one after the other
extern std::uint64_t schedule;       // 0: threads and blocks in order, 1: backwards, other: the seed of a shuffle
struct Device {
  int multiprocessors = 4, capability = 90, shared_optin = 232448;
  int compiled = 120;  // the architecture that kernels were compiled for
};
extern Device device;

// The race check (race.cpp); nothing in builds without it.
namespace race {
#ifdef IVAN_EMU_RACE
void begin_launch();
void begin_block();
void block_barrier();              // all threads of the block
void warp_barrier(unsigned mask);  // lanes of the current thread's warp
void access(const void* address, std::size_t bytes, bool write, const Thread& thread);
void start_copy(const void* to, std::size_t bytes, const Thread& thread);   // cp.async: until finish_copy nobody may
void finish_copy(const void* to, std::size_t bytes, const Thread& thread);  // touch the target
const char* verdict();                                                      // of the launch: empty where all is well
extern int muted;                                                           // inside the emulator's own code
#else
inline void begin_launch() {}
inline void begin_block() {}
inline void block_barrier() {}
inline void warp_barrier(unsigned) {}
inline void access(const void*, std::size_t, bool, const Thread&) {}
inline void start_copy(const void*, std::size_t, const Thread&) {}
inline void finish_copy(const void*, std::size_t, const Thread&) {}
inline const char* verdict() { return ""; }
inline int muted = 0;
#endif
}  // namespace race

}  // namespace cuda_emulation
