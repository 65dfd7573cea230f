// What the CUDA half of the library was built with.
#pragma once

namespace ivan_fast::cuda {

// The version of the statically linked CUDA runtime, 1000 * major + 10 * minor.
int runtime_version();

}  // namespace ivan_fast::cuda
