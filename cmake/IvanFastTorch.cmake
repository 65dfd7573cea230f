# Target torch_stable: the headers and libraries of the installed torch, used through its stable ABI only.
# find_package(Torch) is avoided on purpose: it wants a CUDA toolkit that matches torch's and a full libtorch.
if(NOT TORCH_DIR)
  message(FATAL_ERROR "TORCH_DIR is empty: build through pip, which finds the installed torch, or pass -DTORCH_DIR=.../torch")
endif()
if(NOT EXISTS "${TORCH_DIR}/include/torch/csrc/stable/library.h")
  message(FATAL_ERROR "${TORCH_DIR} holds no torch with a stable ABI; install torch 2.10 or newer")
endif()
add_library(torch_stable INTERFACE)
target_include_directories(torch_stable SYSTEM INTERFACE "${TORCH_DIR}/include")
target_link_directories(torch_stable INTERFACE "${TORCH_DIR}/lib")
target_link_libraries(torch_stable INTERFACE -Wl,--no-as-needed torch_cpu torch -Wl,--as-needed)
# One binary for torch 2.10 and later.
target_compile_definitions(torch_stable INTERFACE TORCH_TARGET_VERSION=0x020a000000000000 TORCH_STABLE_ONLY)
