// Dense block on the CPU; compiled once for each instruction set (isa.h).
// Only the table of entry points leaves this file.
#include "dense_block_stream.h"

namespace ivan_fast::cpu::IVAN_ISA {

const dense::KernelSet& dense_block_kernels() {
  static constexpr dense::KernelSet set = {
      {kLanes<float>, forward_tile<float>, backward_tile<float>},
      {kLanes<double>, forward_tile<double>, backward_tile<double>},
  };
  return set;
}

}  // namespace ivan_fast::cpu::IVAN_ISA
