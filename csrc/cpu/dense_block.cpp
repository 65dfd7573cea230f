// Driver of the dense block: divides the work over threads, packs weights, allocates, reduces gradients.
#include "ivan_fast/dense_block.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "dense_block_pack.h"
#include "dense_block_plan.h"
#include "dense_block_reduce.h"
#include "dense_block_tiles.h"
#include "isa.h"

namespace ivan_fast::cpu {
namespace {

const dense::KernelSet& kernels() { IVAN_ISA_CALL(dense_block_kernels()); }

template <typename T>
const dense::Kernels<T>& kernels_of() {
  if constexpr (sizeof(T) == 4) {
    return kernels().float32;
  } else {
    return kernels().float64;
  }
}

std::atomic<size_t>& workspace_limit() {
  static std::atomic<size_t> limit{[] {
    const char* value = std::getenv("IVAN_FAST_WORKSPACE_MB");
    const long mebibytes = value == nullptr ? 0 : std::strtol(value, nullptr, 10);
    return size_t(mebibytes > 0 ? mebibytes : 64) << 20;
  }()};
  return limit;
}

void check_params(const DenseBlockParams& p) {
  const DenseBlockShape& s = p.shape;
  const auto refuse = [](const std::string& what) { throw std::runtime_error("dense_block: " + what); };
  if (s.depth < 1 || s.depth > dense::kMaxHidden + 1)
    refuse("depth is " + std::to_string(s.depth) + ", expected 1 to " + std::to_string(dense::kMaxHidden + 1));
  // The backward tells the sign of a pre-activation from that of its activation.
  if (!(p.negative_slope >= 0))
    refuse("negative_slope is " + std::to_string(p.negative_slope) + ", expected at least 0");
  for (const int64_t channels : {s.in_channels, s.out_channels, s.growth})
    if (channels < 1 || channels > 4096)
      refuse("channel counts and growth must be 1 to 4096, found " + std::to_string(channels));
}

bool is_empty(const DenseBlockShape& s) { return s.batch == 0 || s.height == 0 || s.width == 0; }

template <typename T>
void zero_gradients(const DenseBlockBackwardParams& p) {
  const DenseBlockShape& s = p.forward.shape;
  for (int64_t i = 0; i < s.depth; ++i) {
    const int64_t outputs = i + 1 == s.depth ? s.out_channels : s.growth;
    std::fill_n(static_cast<T*>(p.grad_weights[i]), outputs * (s.in_channels + i * s.growth) * 9, T(0));
    std::fill_n(static_cast<T*>(p.grad_biases[i]), outputs, T(0));
  }
}

template <typename T>
struct AlignedDelete {
  void operator()(T* p) const { std::free(p); }
};
template <typename T>
using Buffer = std::unique_ptr<T[], AlignedDelete<T>>;

template <typename T>
Buffer<T> allocate(size_t elements) {
  const size_t bytes = (elements * sizeof(T) + 63) / 64 * 64;
  Buffer<T> buffer(static_cast<T*>(std::aligned_alloc(64, bytes)));
  if (!buffer) throw std::bad_alloc();
  return buffer;
}

// The first part of a call that both directions share: job, packed weights, tiles and rings.
template <typename T>
struct Call {
  dense::Job<T> job = {};
  dense::PackedNet<T> packed, packed_gradient;
  dense::Tiling tiling;
  size_t workspace_stride;
  Buffer<T> workspace;

  Call(const DenseBlockParams& p, int threads, bool backward) {
    const DenseBlockShape& s = p.shape;
    const int lanes = kernels_of<T>().lanes;
    job.height = s.height;
    job.width = s.width;
    job.slope = T(p.negative_slope);
    job.rounding = dense::Rounding(int(p.rounding));
    job.winograd = p.winograd && sizeof(T) == 4 && p.rounding == DenseBlockRounding::kNone && s.depth > 2 &&
                   s.width >= dense::kTile;
    job.x = static_cast<const T*>(p.x.data);
    job.x_batch_stride = p.x.batch_stride;
    job.y = static_cast<T*>(p.y);
    const auto* weights = reinterpret_cast<const T* const*>(p.weights);
    packed = dense::pack_forward<T>(s, weights, reinterpret_cast<const T* const*>(p.biases), lanes, job.rounding,
                                    job.winograd);
    job.net = packed.net;
    if (backward) {
      packed_gradient = dense::pack_gradient<T>(s, weights, lanes, job.rounding, job.winograd);
      job.gradient = packed_gradient.net;
    }
    const auto bytes = [&](int64_t columns) { return sizeof(T) * dense::workspace_elements(job, columns, backward); };
    tiling = dense::make_tiling(s, threads, backward, job.winograd ? dense::kTile : 1, workspace_limit().load(), bytes);
    workspace_stride = (bytes(tiling.tile_columns()) / sizeof(T) + 15) / 16 * 16;
    workspace = allocate<T>(workspace_stride * size_t(tiling.slots));
  }
};

// Calls run(slot) for every slot; each goes through its tiles in order.
template <typename F>
void for_each_slot(int64_t slots, ParallelFor parallel_for, F&& run) {
  if (slots == 1) return run(int64_t(0));
  parallel_for(slots, [](int64_t slot, void* context) { (*static_cast<F*>(context))(slot); }, &run);
}

template <typename T>
void forward(const DenseBlockParams& p, int threads, ParallelFor parallel_for) {
  if (is_empty(p.shape)) return;
  Call<T> call(p, threads, false);
  const auto& kernel = kernels_of<T>();
  for_each_slot(call.tiling.slots, parallel_for, [&](int64_t slot) {
    for (int64_t i = call.tiling.first(slot); i < call.tiling.first(slot + 1); ++i)
      kernel.forward(call.job, call.tiling.tile(i), call.workspace.get() + slot * call.workspace_stride);
  });
}

template <typename T>
void backward(const DenseBlockBackwardParams& p, int threads, ParallelFor parallel_for) {
  if (is_empty(p.forward.shape)) return zero_gradients<T>(p);
  Call<T> call(p.forward, threads, true);
  call.job.grad_y = static_cast<const T*>(p.grad_y.data);
  call.job.grad_y_batch_stride = p.grad_y.batch_stride;
  call.job.grad_x = static_cast<T*>(p.grad_x);
  const auto& kernel = kernels_of<T>();
  const size_t stride = (dense::accumulator_elements(call.job.net, call.job.winograd) + 15) / 16 * 16;
  Buffer<T> sums = allocate<T>(stride * size_t(call.tiling.slots));
  for_each_slot(call.tiling.slots, parallel_for, [&](int64_t slot) {
    T* own = sums.get() + slot * stride;
    std::fill(own, own + stride, T(0));
    const dense::Accumulators<T> accumulators = dense::place_accumulators(call.job.net, call.job.winograd, own);
    for (int64_t i = call.tiling.first(slot); i < call.tiling.first(slot + 1); ++i)
      kernel.backward(call.job, call.tiling.tile(i), accumulators, call.workspace.get() + slot * call.workspace_stride);
  });
  dense::reduce_gradients(call.job.net, call.job.winograd, sums.get(), stride, call.tiling.slots,
                          reinterpret_cast<T* const*>(p.grad_weights), reinterpret_cast<T* const*>(p.grad_biases),
                          int(p.forward.shape.growth));
}

}  // namespace

void set_dense_block_workspace(size_t bytes) { workspace_limit().store(bytes); }
size_t dense_block_workspace() { return workspace_limit().load(); }

void dense_block_forward(const DenseBlockParams& p, int threads, ParallelFor parallel_for) {
  check_params(p);
  if (p.dtype == DType::kFloat64) {
    forward<double>(p, threads, parallel_for);
  } else {
    forward<float>(p, threads, parallel_for);
  }
}

void dense_block_backward(const DenseBlockBackwardParams& p, int threads, ParallelFor parallel_for) {
  check_params(p.forward);
  if (p.forward.dtype == DType::kFloat64) {
    backward<double>(p, threads, parallel_for);
  } else {
    backward<float>(p, threads, parallel_for);
  }
}

}  // namespace ivan_fast::cpu
