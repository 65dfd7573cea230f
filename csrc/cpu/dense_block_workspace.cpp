#include "dense_block_workspace.h"

#include <cstdlib>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ivan_fast::cpu::dense {
namespace {

constexpr size_t kDefault = size_t(64) << 20;

// The environment's bound in MiB; what is not a positive number is refused at the first call.
size_t initial_limit() {
  const char* value = std::getenv("IVAN_FAST_WORKSPACE_MB");
  if (value == nullptr || *value == '\0') return kDefault;
  char* end = nullptr;
  const long mebibytes = std::strtol(value, &end, 10);
  if (*end != '\0' || mebibytes < 1 || mebibytes > (1L << 30))
    throw std::runtime_error(std::string("IVAN_FAST_WORKSPACE_MB=") + value + ": expected a number of MiB, at least 1");
  return size_t(mebibytes) << 20;
}

void* map(size_t bytes) {
#if defined(__linux__)
  void* block = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) throw std::bad_alloc();
  madvise(block, bytes, MADV_HUGEPAGE);
#else
  void* block = std::aligned_alloc(64, bytes);
  if (block == nullptr) throw std::bad_alloc();
#endif
  return block;
}

void unmap(void* block, size_t bytes) {
  if (block == nullptr) return;
#if defined(__linux__)
  munmap(block, bytes);
#else
  static_cast<void>(bytes);
  std::free(block);
#endif
}

struct Pool {
  std::mutex mutex;
  size_t limit = initial_limit();
  void* kept = nullptr;
  size_t kept_bytes = 0;

  // Keeps the larger of the two blocks, if it may be kept at all; the other one is returned, to be unmapped.
  std::pair<void*, size_t> swap_in(void* block, size_t bytes) {
    if (bytes > limit || bytes <= kept_bytes) return {block, bytes};
    std::swap(block, kept);
    std::swap(bytes, kept_bytes);
    return {block, bytes};
  }
};

// Never destroyed: threads may still be at work when the process ends.
Pool& pool() {
  static Pool* const only = new Pool;
  return *only;
}

}  // namespace

Workspace::Workspace(size_t bytes) : block_(nullptr), bytes_((bytes + 4095) / 4096 * 4096 + 4096) {
  {
    Pool& p = pool();
    const std::lock_guard<std::mutex> lock(p.mutex);
    if (p.kept_bytes >= bytes_) {
      block_ = std::exchange(p.kept, nullptr);
      bytes_ = std::exchange(p.kept_bytes, 0);
    } else {
      unmap(std::exchange(p.kept, nullptr), std::exchange(p.kept_bytes, 0));
    }
  }
  if (block_ == nullptr) block_ = map(bytes_);
}

Workspace::~Workspace() {
  Pool& p = pool();
  const std::lock_guard<std::mutex> lock(p.mutex);
  const auto [block, bytes] = p.swap_in(block_, bytes_);
  unmap(block, bytes);
}

size_t Workspace::limit() {
  Pool& p = pool();
  const std::lock_guard<std::mutex> lock(p.mutex);
  return p.limit;
}

void Workspace::set_limit(size_t bytes) {
  Pool& p = pool();
  const std::lock_guard<std::mutex> lock(p.mutex);
  p.limit = bytes;
  unmap(std::exchange(p.kept, nullptr), std::exchange(p.kept_bytes, 0));
}

}  // namespace ivan_fast::cpu::dense
