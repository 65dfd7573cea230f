// Race check: kernels are compiled with -fsanitize=thread, whose calls for every load and store arrive here instead of
// in libtsan. Two accesses of which one writes need a barrier between them that both threads pass; blocks of one launch
// are never ordered. Shared memory must be written by the block that reads it.
#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <memory>
#include <string>
#include <unordered_map>

#include "emulator.h"

namespace cuda_emulation::race {

int muted = 0;

namespace {

constexpr std::size_t kPageBytes = 4096;
constexpr std::uint32_t kPending = 0xffffffffu;  // time of a cp.async that nobody has waited for

struct Access {
  std::uint32_t block_plus_1 = 0;  // 0: none yet
  std::uint32_t thread = 0;
  std::uint32_t time = 0;
};

struct Cell {  // of one byte
  Access writer;
  Access readers[2];  // of different threads
};

struct Page {
  Cell cells[kPageBytes];
};

std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages;
std::uintptr_t last_number = 0;
Page* last_page = nullptr;
std::string report;
std::uint32_t now = 0;                // counts barriers
std::uint32_t block_time = 0;         // of the last barrier of the running block
std::uint32_t warp_time[32];          // of the last barrier of all lanes of a warp
std::uint32_t pair_time[32][32][32];  // [warp, lane, lane]: of the last barrier of some lanes
std::uintptr_t statics_begin = 0, statics_end = 0;

// The writable data of this library, where __shared__ variables lie.
int find_statics(dl_phdr_info* info, std::size_t, void*) {
  const auto own = reinterpret_cast<std::uintptr_t>(&muted);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    const std::uintptr_t begin = info->dlpi_addr + header.p_vaddr, end = begin + header.p_memsz;
    if (header.p_type == PT_LOAD && (header.p_flags & PF_W) != 0 && own >= begin && own < end) {
      statics_begin = begin;
      statics_end = end;
      return 1;
    }
  }
  return 0;
}

bool is_shared(std::uintptr_t address) {
  const auto dynamic = reinterpret_cast<std::uintptr_t>(block.dynamic);
  return (address >= statics_begin && address < statics_end) ||
         (block.dynamic != nullptr && address >= dynamic && address < dynamic + block.dynamic_bytes);
}

Cell& cell_of(std::uintptr_t address) {
  const std::uintptr_t number = address / kPageBytes;
  if (number != last_number || last_page == nullptr) {
    auto& page = pages[number];
    if (page == nullptr) page = std::make_unique<Page>();
    last_number = number;
    last_page = page.get();
  }
  return last_page->cells[address % kPageBytes];
}

// Whether a barrier lies between the earlier access and the current moment of `thread`.
bool ordered(const Access& earlier, const Thread& thread) {
  if (earlier.block_plus_1 != block.number + 1 || earlier.time == kPending) return false;
  const std::uint32_t linear = static_cast<std::uint32_t>(thread.linear);
  if (earlier.thread == linear || earlier.time < block_time) return true;
  if (earlier.thread / 32 != linear / 32) return false;
  return earlier.time < warp_time[linear / 32] ||
         earlier.time < pair_time[linear / 32][earlier.thread % 32][linear % 32];
}

void* caller = nullptr;  // return address into the kernel, for the report

void report_once(const char* what, bool shared, const Thread& thread, const Access& earlier) {
  if (!report.empty()) return;
  char text[320];
  Dl_info info{};
  const bool found = dladdr(caller, &info) != 0;
  const std::size_t offset =
      found ? static_cast<std::size_t>(static_cast<char*>(caller) - static_cast<char*>(info.dli_fbase)) : 0;
  if (earlier.block_plus_1 == 0) {
    std::snprintf(text, sizeof text, "race check: %s: block %u thread %d [+0x%zx]", what, block.number, thread.linear,
                  offset);
  } else {
    std::snprintf(text, sizeof text, "race check: %s %s memory: block %u thread %d after block %u thread %u [+0x%zx]",
                  what, shared ? "shared" : "global", block.number, thread.linear, earlier.block_plus_1 - 1,
                  earlier.thread, offset);
  }
  report = text;
}

void check_byte(std::uintptr_t address, bool shared, bool write, const Thread& thread) {
  Cell& cell = cell_of(address);
  if (shared && cell.writer.block_plus_1 != 0 && cell.writer.block_plus_1 != block.number + 1) cell = Cell{};
  if (shared && cell.writer.block_plus_1 == 0) {  // what earlier blocks read does not matter either
    for (Access& reader : cell.readers) {
      if (reader.block_plus_1 != block.number + 1) reader = Access{};
    }
    if (!write) return report_once("shared memory is read that the block has not written", true, thread, {});
  }
  if (cell.writer.block_plus_1 != 0 && !ordered(cell.writer, thread)) {
    report_once(write ? "write without barrier after a write to" : "read without barrier after a write to", shared,
                thread, cell.writer);
  }
  const Access own{block.number + 1, static_cast<std::uint32_t>(thread.linear), now};
  if (write) {
    for (const Access& reader : cell.readers) {
      if (reader.block_plus_1 != 0 && !ordered(reader, thread)) {
        report_once("write without barrier after a read of", shared, thread, reader);
      }
    }
    cell.writer = own;
    cell.readers[0] = cell.readers[1] = Access{};
    return;
  }
  // Readers of one epoch are told apart only as "this one" and "another": enough for any later write to meet one.
  for (Access& reader : cell.readers) {
    if (reader.block_plus_1 == 0 || (reader.thread == own.thread && reader.block_plus_1 == own.block_plus_1)) {
      reader = own;
      return;
    }
  }
  for (Access& reader : cell.readers) {
    if (ordered(reader, thread)) {
      reader = own;
      return;
    }
  }
}

}  // namespace

void begin_launch() {
  if (statics_begin == 0) dl_iterate_phdr(find_statics, nullptr);
  pages.clear();
  last_page = nullptr;
  report.clear();
  now = 1;
}

void begin_block() {
  block_time = 0;
  std::memset(warp_time, 0, sizeof warp_time);
  std::memset(pair_time, 0, sizeof pair_time);
}

void block_barrier() { block_time = ++now; }

void warp_barrier(unsigned mask) {
  const int warp = current->linear / 32;
  ++now;
  if (mask == ~0u) {
    warp_time[warp] = now;
    return;
  }
  for (int a = 0; a < 32; ++a) {
    for (int b = 0; b < 32; ++b) {
      if (mask >> a & mask >> b & 1) pair_time[warp][a][b] = now;
    }
  }
}

void access(const void* address, std::size_t bytes, bool write, const Thread& thread) {
  const auto first = reinterpret_cast<std::uintptr_t>(address);
  const bool shared = is_shared(first);
  for (std::size_t i = 0; i < bytes; ++i) check_byte(first + i, shared, write, thread);
}

void start_copy(const void* to, std::size_t bytes, const Thread& thread) {
  access(to, bytes, true, thread);
  const auto first = reinterpret_cast<std::uintptr_t>(to);
  for (std::size_t i = 0; i < bytes; ++i) cell_of(first + i).writer.time = kPending;
}

void finish_copy(const void* to, std::size_t bytes, const Thread& thread) {
  const auto first = reinterpret_cast<std::uintptr_t>(to);
  const Access own{block.number + 1, static_cast<std::uint32_t>(thread.linear), now};
  for (std::size_t i = 0; i < bytes; ++i) cell_of(first + i) = Cell{own, {}};
}

const char* verdict() { return report.c_str(); }

void instrumented(const void* address, std::size_t bytes, bool write, void* return_address) {
  if (current == nullptr || muted != 0) return;
  const char* pointer = static_cast<const char*>(address);
  const auto* launch = reinterpret_cast<const char*>(&built_in);
  if (pointer >= launch && pointer < launch + sizeof built_in) return;  // threadIdx and its like
  const char* stacks = block.threads.front().stack;
  if (pointer >= stacks && pointer < stacks + 1024 * kStackBytes) return;  // local variables
  caller = return_address;
  access(address, bytes, write, *current);
}

}  // namespace cuda_emulation::race

#define RECORD(name, bytes, write)                                                          \
  extern "C" void name(void* address) {                                                     \
    cuda_emulation::race::instrumented(address, bytes, write, __builtin_return_address(0)); \
  }
#define RECORD_SIZE(bytes)                           \
  RECORD(__tsan_read##bytes, bytes, false)           \
  RECORD(__tsan_write##bytes, bytes, true)           \
  RECORD(__tsan_unaligned_read##bytes, bytes, false) \
  RECORD(__tsan_unaligned_write##bytes, bytes, true)
RECORD_SIZE(1)
RECORD_SIZE(2)
RECORD_SIZE(4)
RECORD_SIZE(8)
RECORD_SIZE(16)
extern "C" void __tsan_read_range(void* address, unsigned long bytes) {
  cuda_emulation::race::instrumented(address, bytes, false, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* address, unsigned long bytes) {
  cuda_emulation::race::instrumented(address, bytes, true, __builtin_return_address(0));
}
// Host state that launchers keep in atomics; kernels have none.
#define ATOMIC(bits, type)                                                                       \
  extern "C" type __tsan_atomic##bits##_load(const volatile type* a, int) { return *a; }         \
  extern "C" void __tsan_atomic##bits##_store(volatile type* a, type value, int) { *a = value; } \
  extern "C" type __tsan_atomic##bits##_exchange(volatile type* a, type value, int) {            \
    const type before = *a;                                                                      \
    *a = value;                                                                                  \
    return before;                                                                               \
  }
ATOMIC(8, std::uint8_t)
ATOMIC(32, std::uint32_t)
ATOMIC(64, std::uint64_t)
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
