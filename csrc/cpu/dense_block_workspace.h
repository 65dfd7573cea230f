// Memory of the dense block's calls: one block a call, kept for the next.
//
// The rings of one call take megabytes. From the C library's heap they would either be returned to the system and
// faulted in again page by page at every call, or share the heap with tensors and fragment it.
#pragma once

#include <cstddef>

namespace ivan_fast::cpu::dense {

class Workspace {
 public:
  explicit Workspace(size_t bytes);  // throws std::bad_alloc; aligned to cache lines, contents undefined
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // The next `elements`, aligned to cache lines.
  template <typename T>
  T* take(size_t elements) {
    T* taken = reinterpret_cast<T*>(static_cast<char*>(block_) + used_);
    used_ += bytes_of<T>(elements);
    return taken;
  }
  template <typename T>
  static size_t bytes_of(size_t elements) {
    return (elements * sizeof(T) + 63) / 64 * 64;
  }

  // What all calls together should stay below; a larger block is not kept. Changing it frees what is kept.
  static size_t limit();
  static void set_limit(size_t bytes);

 private:
  void* block_;
  size_t bytes_, used_ = 0;
};

}  // namespace ivan_fast::cpu::dense
