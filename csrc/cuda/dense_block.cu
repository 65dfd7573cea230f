// Dense block on CUDA: which kernels a call runs, and those of exact arithmetic.
#include <mutex>

#include "dense_block_kernels.cuh"
#include "dense_block_layer.cuh"
#include "dense_block_run.cuh"

namespace ivan_fast::cuda {
namespace {

constexpr const char* kOp = "dense_block";

// Exact arithmetic in T; operands may be rounded first.
template <typename T>
struct PlainKernels {
  using State = T;
  using Operand = T;
  using Layout = RowMajor;

  static void level(const LevelTask<T, T>& task, int images, int tile_outputs, cudaStream_t stream) {
    const dim3 grid = level_grid(task.region, kLayerRows, kLayerCols, images * task.output_tiles);
    if (tile_outputs == kPair) {
      launch("dense_block", layer_kernel<T, 4>, grid, dim3(kThreads), 0, stream, task);
    } else {
      launch("dense_block", layer_kernel<T, 1>, grid, dim3(kThreads), 0, stream, task);
    }
  }

  static void gradients(const GradientTask<T, T>& task, int nets, int splits, cudaStream_t stream) {
    const auto grid = [&](int items) { return dim3(unsigned(items), unsigned(splits), unsigned(nets)); };
    if (const int nine = task.units.nine_tap_items(); nine > 0)
      launch("dense_block", gradient_kernel<9, T>, grid(nine), dim3(kThreads), 0, stream, task);
    launch("dense_block", gradient_kernel<1, T>, grid(task.units.centre_items()), dim3(kThreads), 0, stream, task);
  }

  // Nothing is fused without tensor cores.
  template <typename... Any>
  static bool fused_forward(const Any&...) {
    return false;
  }
  template <typename... Any>
  static bool fused(const Any&...) {
    return false;
  }
  template <typename... Any>
  static bool fused_gradients(const Any&...) {
    return false;
  }
};

// Tensor cores multiply float32 tensors whose operands are rounded, where the device has such instructions.
bool on_tensor_cores(DType dtype, DenseBlockOperand operand) {
  if (dtype != DType::kFloat32 || operand == DenseBlockOperand::kExact) return false;
  return current_device().capability >= (operand == DenseBlockOperand::kFloat16 ? 75 : 80);
}

// What the plain kernels round operands to: TF32 is a name for the device's own float32 products, exact here.
DenseBlockOptions plain_options(DenseBlockOptions options) {
  if (options.operand == DenseBlockOperand::kTf32) options.operand = DenseBlockOperand::kExact;
  return options;
}

std::size_t operand_size(DType dtype, DenseBlockOperand operand) {
  if (dtype == DType::kFloat64) return 8;
  if (!on_tensor_cores(dtype, operand)) return 4;
  return operand == DenseBlockOperand::kTf32 ? 4 : 2;
}

void check_call(const DenseBlockCall& call) {
  check_shape(call.shape);
  if (!(call.negative_slope >= 0))
    throw std::runtime_error("dense_block: negative_slope is " + std::to_string(call.negative_slope) +
                             ", expected at least 0");
}

bool is_empty(const DenseBlockShape& s) { return s.batch == 0 || s.height == 0 || s.width == 0; }

// An image without pixels: every sum over them is 0.
template <typename T>
void zero_gradients(const DenseBlockCall& call, cudaStream_t stream) {
  const DenseNet net = forward_net(call.shape);
  for (int n = 0; n < call.nets; ++n)
    for (int m = 1; m <= net.hidden + 1; ++m) {
      const std::size_t outputs = std::size_t(net.outputs(m));
      const std::size_t inputs = std::size_t(net.in_channels + std::int64_t(m - 1) * net.growth);
      check(cudaMemsetAsync(call.net[n].grad_weights[m - 1], 0, outputs * inputs * 9 * sizeof(T), stream), kOp);
      check(cudaMemsetAsync(call.net[n].grad_biases[m - 1], 0, outputs * sizeof(T), stream), kOp);
    }
}

template <typename T>
void plain_forward(const DenseBlockCall& call, const DenseBlockOptions& options, void* workspace, cudaStream_t stream) {
  DenseRun<PlainKernels<T>>(call, plain_options(options), DenseBlockPass::kForward, workspace, stream).forward();
}

template <typename T>
void plain_backward(const DenseBlockCall& call, const DenseBlockOptions& options, void* workspace,
                    cudaStream_t stream) {
  DenseRun<PlainKernels<T>>(call, plain_options(options), backward_pass(call), workspace, stream).backward();
}

// Asks the driver.
DenseBlockDevice properties_of(int device) {
  int major = 0, minor = 0;
  DenseBlockDevice found{};
  const auto attribute = [device](int* value, cudaDeviceAttr which) {
    check(cudaDeviceGetAttribute(value, which, device), kOp);
  };
  attribute(&major, cudaDevAttrComputeCapabilityMajor);
  attribute(&minor, cudaDevAttrComputeCapabilityMinor);
  attribute(&found.multiprocessors, cudaDevAttrMultiProcessorCount);
  attribute(&found.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  // Built for an older architecture, a kernel lacks the instructions of this one.
  cudaFuncAttributes compiled{};
  check(cudaFuncGetAttributes(&compiled, reinterpret_cast<const void*>(&reduce_kernel<float>)), kOp);
  found.capability = std::min(10 * major + minor, compiled.ptxVersion);
  return found;
}

}  // namespace

DenseBlockDevice current_device() {
  int device = 0;
  check(cudaGetDevice(&device), kOp);
#if !defined(IVAN_EMU)  // whose device changes as tests want it
  // A call asks several times, and properties do not change.
  constexpr int kRemembered = 64;
  static std::once_flag asked[kRemembered];
  static DenseBlockDevice found[kRemembered];
  if (device < kRemembered) {
    std::call_once(asked[device], [device] { found[device] = properties_of(device); });
    return found[device];
  }
#endif
  return properties_of(device);
}

std::size_t dense_block_workspace_bytes(const DenseBlockShape& shape, int nets, DType dtype,
                                        const DenseBlockOptions& options, DenseBlockPass pass) {
  if (is_empty(shape)) return 0;
  const std::size_t state_size = dtype == DType::kFloat64 ? 8 : 4, size = operand_size(dtype, options.operand);
  const DenseBlockPlan plan = make_plan(shape, nets, size, state_size, pass, options.workspace_limit);
  const bool only_weights = pass == DenseBlockPass::kForward && on_tensor_cores(dtype, options.operand) &&
                            fused_is_possible(options, plan.net, int(size), current_device());
  return only_weights ? plan.source : plan.bytes;
}

void dense_block_forward(const DenseBlockCall& call, const DenseBlockOptions& options, void* workspace, void* on) {
  const auto stream = static_cast<cudaStream_t>(on);
  check_call(call);
  if (is_empty(call.shape)) return;
  if (call.dtype == DType::kFloat64) {
    plain_forward<double>(call, options, workspace, stream);
  } else if (on_tensor_cores(call.dtype, options.operand)) {
    tensor_core_forward(call, options, workspace, stream);
  } else {
    plain_forward<float>(call, options, workspace, stream);
  }
}

void dense_block_backward(const DenseBlockCall& call, const DenseBlockOptions& options, void* workspace, void* on) {
  const auto stream = static_cast<cudaStream_t>(on);
  check_call(call);
  const bool wide = call.dtype == DType::kFloat64;
  if (is_empty(call.shape)) {
    wide ? zero_gradients<double>(call, stream) : zero_gradients<float>(call, stream);
  } else if (wide) {
    plain_backward<double>(call, options, workspace, stream);
  } else if (on_tensor_cores(call.dtype, options.operand)) {
    tensor_core_backward(call, options, workspace, stream);
  } else {
    plain_backward<float>(call, options, workspace, stream);
  }
}

}  // namespace ivan_fast::cuda
