// Planted faults (planting.py): all of them are compiled into one library, and a number chooses the one that is made.
// Included before everything else in such a build only.
#pragma once

// Whether fault `number` is the chosen one (emulator.cpp). It never changes while a launcher runs.
extern "C" bool emulation_planted(int number) __attribute__((const));

namespace planting {

// `a % Next{n} ->* b` is a % b, or with fault n a % (b + 1); `->*` binds closer than `%` and `/`.
struct Next {
  int number;
};
template <typename T>
inline __attribute__((always_inline)) T operator->*(Next next, T value) {
  return static_cast<T>(value + (emulation_planted(next.number) ? 1 : 0));
}

}  // namespace planting
