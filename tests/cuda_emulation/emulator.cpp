// Runs kernels: fibers for the threads of a block, block and warp barriers, launches with the device's own limits.
#include "emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
asm(R"(
.text
.globl cuda_emulation_switch
.hidden cuda_emulation_switch
.type cuda_emulation_switch, @function
cuda_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_emulation_switch, .-cuda_emulation_switch
)");
#endif

namespace cuda_emulation {

BuiltIn built_in;
Thread* current = nullptr;
Block block;
std::uint64_t schedule = 0;
std::int64_t launches = 0;
std::int64_t bank_conflicts = 0;
Device device;

namespace {

constexpr int kCanaryBytes = 64;
constexpr char kPoison = static_cast<char>(0xff);

std::string failure;
cudaError_t last_error = cudaSuccess;
std::map<const void*, int> allowed_dynamic;  // cudaFuncSetAttribute
const std::function<void()>* body;
Fiber scheduler;
bool abandoned = false;  // a launch ended in the middle of its threads
#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack;
std::size_t scheduler_stack_bytes;
#endif

void to_scheduler(bool leaves) {
  Thread* thread = current;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(leaves ? nullptr : &thread->fake_stack, scheduler_stack, scheduler_stack_bytes);
#endif
  thread->fiber.switch_to(scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(thread->fake_stack, &scheduler_stack, &scheduler_stack_bytes);
#endif
  (void)leaves;
}

void resume(Thread& thread) {
  current = &thread;
  built_in.thread = thread.index;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack;
  __sanitizer_start_switch_fiber(&fake_stack, thread.stack, kStackBytes);
#endif
  scheduler.switch_to(thread.fiber);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  current = nullptr;
}

Thread* lane_of(const Thread& thread, int lane) {
  const std::size_t linear = static_cast<std::size_t>(thread.linear / 32 * 32 + lane);
  return linear < block.threads.size() ? &block.threads[linear] : nullptr;
}

// Ends the collective that `waiting` waits at if every living lane of its mask has arrived.
bool try_release(Thread& waiting) {
  const void* in[32] = {};
  void* out[32] = {};
  Thread* arrived[32];
  int count = 0;
  for (int lane = 0; lane < 32; ++lane) {
    Thread* other = waiting.mask >> lane & 1 ? lane_of(waiting, lane) : nullptr;
    if (other == nullptr || other->state == State::kDone) continue;
    if (other->state != State::kWarp || !(other->mask >> (waiting.linear % 32) & 1)) return false;
    if (other->mask != waiting.mask || other->operation != waiting.operation) {
      fail("thread %d waits at %s with mask %08x, thread %d at %s with mask %08x", waiting.linear, waiting.operation,
           waiting.mask, other->linear, other->operation, other->mask);
    }
    in[lane] = other->in;
    out[lane] = other->out;
    arrived[count++] = other;
  }
  if (waiting.combine != nullptr) waiting.combine(waiting.mask, in, out);
  race::warp_barrier(waiting.mask);
  for (int i = 0; i < count; ++i) arrived[i]->state = State::kRunning;
  return true;
}

void run_thread() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  (*body)();
  current->state = State::kDone;
  for (int lane = 0; lane < 32; ++lane) {  // lanes that wait for the living ones only
    Thread* other = lane_of(*current, lane);
    if (other != nullptr && other->state == State::kWarp) try_release(*other);
  }
  to_scheduler(true);
}

std::vector<std::size_t> order_of(std::size_t count, std::uint64_t salt) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  if (schedule == 1) std::reverse(order.begin(), order.end());
  if (schedule > 1) std::shuffle(order.begin(), order.end(), std::mt19937_64(schedule * 1000003 + salt));
  return order;
}

void explain_deadlock() {
  int count[4] = {};
  const Thread* warp_waiter = nullptr;
  for (const Thread& thread : block.threads) {
    ++count[static_cast<int>(thread.state)];
    if (thread.state == State::kWarp && warp_waiter == nullptr) warp_waiter = &thread;
  }
  char text[256];
  std::snprintf(
      text, sizeof text, "barrier not reached by all: of %zu threads %d wait at __syncthreads, %d %s, %d ended",
      block.threads.size(), count[1], count[2],
      warp_waiter == nullptr ? "in a warp operation" : (std::string("at ") + warp_waiter->operation).c_str(), count[3]);
  failure = text;
}

// false after a failure
bool run_block(const std::vector<std::size_t>& order) {
  block.waiting = block.votes = 0;
  race::begin_block();
  for (Thread& thread : block.threads) {
    thread.state = State::kRunning;
    thread.copies.clear();
    thread.groups.clear();
    thread.fiber.prepare(thread.stack, kStackBytes, run_thread);
  }
  for (std::size_t done = 0; done < order.size();) {
    bool ran = false;
    for (const std::size_t i : order) {
      Thread& thread = block.threads[i];
      if (thread.state != State::kRunning) continue;
      ran = true;
      resume(thread);
      if (!failure.empty()) return false;
      done += thread.state == State::kDone;
    }
    if (!ran && done < order.size()) {
      explain_deadlock();
      return false;
    }
  }
  for (std::size_t i = 0; i < kCanaryBytes && block.dynamic != nullptr; ++i) {
#if !defined(__SANITIZE_ADDRESS__)
    if (block.dynamic[block.dynamic_bytes + i] != kPoison) {
      failure = "wrote past the end of its " + std::to_string(block.dynamic_bytes) + " bytes of dynamic shared memory";
      return false;
    }
#endif
  }
  return true;
}

void make_threads(dim3 size) {
  static char* stacks = nullptr;
  if (stacks == nullptr) {
    void* memory =
        mmap(nullptr, 1024 * kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    stacks = static_cast<char*>(memory);
  }
  block.threads.resize(std::size_t(size.x) * size.y * size.z);
  for (std::size_t i = 0; i < block.threads.size(); ++i) {
    Thread& thread = block.threads[i];
    const unsigned linear = static_cast<unsigned>(i);
    thread.linear = static_cast<int>(i);
    thread.index = {linear % size.x, linear / size.x % size.y, linear / (size.x * size.y)};
    thread.stack = stacks + i * kStackBytes;
  }
}

bool launchable(const void* kernel, const cudaLaunchConfig_t& c) {
  const auto product = [](dim3 d) { return std::uint64_t(d.x) * d.y * d.z; };
  const auto allowed = allowed_dynamic.find(kernel);
  const std::size_t limit = allowed == allowed_dynamic.end() ? 48 << 10 : static_cast<std::size_t>(allowed->second);
  return product(c.gridDim) > 0 && c.gridDim.x <= 0x7fffffffu && c.gridDim.y <= 65535 && c.gridDim.z <= 65535 &&
         product(c.blockDim) > 0 && product(c.blockDim) <= 1024 && c.blockDim.z <= 64 && c.dynamicSmemBytes <= limit;
}

}  // namespace

void fail(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  char where[128];
  std::snprintf(where, sizeof where, "block (%u, %u, %u) thread (%u, %u, %u): ", built_in.block.x, built_in.block.y,
                built_in.block.z, current->index.x, current->index.y, current->index.z);
  failure = std::string(where) + text;
  to_scheduler(true);
  std::abort();  // never resumed
}

cudaError_t launch(const void* kernel, const cudaLaunchConfig_t& config, const std::function<void()>& kernel_body) {
  if (!launchable(kernel, config)) return last_error = cudaErrorInvalidConfiguration;
  ++launches;
  failure.clear();
  body = &kernel_body;
  built_in.block_size = config.blockDim;
  built_in.grid_size = config.gridDim;
  block.dynamic = nullptr;
  block.dynamic_bytes = config.dynamicSmemBytes;
  make_threads(config.blockDim);
#if defined(__SANITIZE_ADDRESS__)
  if (abandoned) {  // stack frames were left without their epilogues
    for (const Thread& thread : block.threads) __asan_unpoison_memory_region(thread.stack, kStackBytes);
    abandoned = false;
  }
#endif
  race::begin_launch();
#if defined(__SANITIZE_ADDRESS__)
  const std::size_t bytes = config.dynamicSmemBytes;
#else
  const std::size_t bytes = config.dynamicSmemBytes + kCanaryBytes;
#endif
  const dim3 grid = config.gridDim;
  bool good = true;
  for (const std::size_t number : order_of(std::size_t(grid.x) * grid.y * grid.z, 0)) {
    block.number = static_cast<std::uint32_t>(number);
    built_in.block = {block.number % grid.x, block.number / grid.x % grid.y, block.number / grid.x / grid.y};
    if (config.dynamicSmemBytes > 0) {
      void* memory = nullptr;
      if (posix_memalign(&memory, 1024, bytes) != 0) std::abort();
      block.dynamic = static_cast<char*>(memory);
      std::memset(block.dynamic, kPoison, bytes);
    }
    good = run_block(order_of(block.threads.size(), number + 1));
    std::free(block.dynamic);
    block.dynamic = nullptr;
    if (!good) break;
  }
  abandoned = abandoned || !good;
  if (good && *race::verdict() != 0) failure = race::verdict();
  return failure.empty() ? cudaSuccess : last_error = cudaErrorLaunchFailure;
}

int lane() { return current->linear % 32; }

void* dynamic_shared() {
  if (block.dynamic == nullptr) fail("dynamic shared memory is used, but the launch gave none");
  return block.dynamic;
}

int block_sum(int value) {
  block.votes += value;
  if (++block.waiting == static_cast<int>(block.threads.size())) {
    for (Thread& thread : block.threads) {
      thread.state = State::kRunning;
      thread.vote = block.votes;
    }
    block.waiting = block.votes = 0;
    race::block_barrier();
  } else {
    current->state = State::kBlock;
    to_scheduler(false);
  }
  return current->vote;
}

void block_barrier() { block_sum(0); }

void warp_collective(const char* operation, unsigned mask, const void* in, void* out, Combine combine) {
  Thread& thread = *current;
  if (!(mask >> (thread.linear % 32) & 1)) fail("%s: the mask %08x lacks the calling lane", operation, mask);
  thread.operation = operation;
  thread.mask = mask;
  thread.in = in;
  thread.out = out;
  thread.combine = combine;
  thread.state = State::kWarp;
  if (!try_release(thread)) to_scheduler(false);
}

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value > device.shared_optin) return last_error = cudaErrorInvalidValue;
  int& allowed = allowed_dynamic[kernel];
  if (value < allowed) {
    failure = "the limit of dynamic shared memory sinks from " + std::to_string(allowed) + " to " +
              std::to_string(value) + " bytes, under a thread that may be about to launch with more";
    return last_error = cudaErrorLaunchFailure;
  }
  allowed = value;
  return cudaSuccess;
}

cudaError_t occupancy(int* blocks, int threads, std::size_t dynamic_bytes) {
  const std::size_t by_shared = (std::size_t(device.shared_optin) + 1024) / (dynamic_bytes + 1024);
  const std::size_t by_threads = 2048 / static_cast<std::size_t>(threads);
  *blocks = static_cast<int>(by_shared < by_threads ? by_shared : by_threads);
  return cudaSuccess;
}

}  // namespace cuda_emulation

using cuda_emulation::device;

cudaError_t cudaPeekAtLastError() { return cuda_emulation::last_error; }
cudaError_t cudaGetLastError() { return std::exchange(cuda_emulation::last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorLaunchFailure) return cuda_emulation::failure.c_str();
  return error == cudaSuccess             ? "no error"
         : error == cudaErrorInvalidValue ? "invalid argument"
                                          : "invalid configuration argument";
}
cudaError_t cudaGetDevice(int* number) {
  *number = 0;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->ptxVersion = device.compiled;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = device.multiprocessors;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = device.capability / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = device.capability % 10;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = device.shared_optin + 1024;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = device.shared_optin;
      break;
  }
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int byte, std::size_t bytes, cudaStream_t) {
  std::memset(to, byte, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

static int planted_fault = -1;
extern "C" bool emulation_planted(int number) { return number == planted_fault; }
extern "C" void emulation_plant(int number) { planted_fault = number; }
extern "C" std::int64_t emulation_launches() { return cuda_emulation::launches; }
extern "C" std::int64_t emulation_bank_conflicts() { return cuda_emulation::bank_conflicts; }
extern "C" void emulation_set_schedule(std::uint64_t seed) { cuda_emulation::schedule = seed; }
extern "C" void emulation_set_device(int multiprocessors, int capability, int shared_optin, int compiled) {
  device = {multiprocessors, capability, shared_optin, compiled};
  cuda_emulation::allowed_dynamic.clear();
}
