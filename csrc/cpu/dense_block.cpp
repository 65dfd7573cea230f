// Driver of the dense block: divides the work over threads, packs weights, allocates, reduces gradients.
#include "ivan_fast/dense_block.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "dense_block_pack.h"
#include "dense_block_plan.h"
#include "dense_block_team.h"
#include "dense_block_tiles.h"
#include "dense_block_workspace.h"
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

// Calls run(i) for i in [0, count).
template <typename F>
void for_each(int64_t count, ParallelFor parallel_for, F&& run) {
  if (count == 1) return run(int64_t(0));
  parallel_for(count, [](int64_t i, void* context) { (*static_cast<F*>(context))(i); }, &run);
}

// Every level and source of a net of L hidden levels.
struct LevelSource {
  int k, s;
};
std::vector<LevelSource> level_sources(int hidden) {
  std::vector<LevelSource> all;
  for (int k = 1; k <= hidden + 1; ++k)
    for (int s = 0; s < k; ++s) all.push_back({k, s});
  return all;
}

// Whether a call computes by Winograd: a matter of shapes alone, so that forward and recompute do the same.
bool uses_winograd(const DenseBlockParams& p) {
  const DenseBlockShape& s = p.shape;
  const int64_t tile = dense::kTile;
  const int64_t covered = (s.height + tile - 1) / tile * tile * ((s.width + tile - 1) / tile * tile);
  return p.winograd && p.dtype == DType::kFloat32 && p.rounding == DenseBlockRounding::kNone && s.depth > 2 &&
         covered <= 2 * s.height * s.width;
}

// The first part of a call that both directions share: job, packed weights, tiles and rings.
template <typename T>
struct Call {
  const DenseBlockShape& shape;
  const ParallelFor parallel_for;
  dense::Job<T> job = {};
  dense::Tiling tiling;
  size_t planned, rings_stride;                                  // bytes of everything; elements of a slot's rings
  std::optional<dense::LevelPlaces<T>> places, gradient_places;  // of weights or their gradients, in either net
  std::optional<dense::Workspace> memory;
  T* rings;
  T* sums = nullptr;  // [slots][parts][places->elements]

  Call(const DenseBlockParams& p, int threads, ParallelFor parallel_for_, bool backward,
       const DenseBlockCoupling& coupling = {})
      : shape(p.shape), parallel_for(parallel_for_) {
    job.height = shape.height;
    job.width = shape.width;
    job.slope = T(p.negative_slope);
    job.rounding = dense::Rounding(int(p.rounding));
    job.winograd = uses_winograd(p);
    job.x = static_cast<const T*>(p.x.data);
    job.x_batch_stride = p.x.batch_stride;
    job.y = static_cast<T*>(p.y);
    job.coupling = coupling;
    const int hidden = int(shape.depth) - 1, lanes = kernels_of<T>().lanes;
    job.net = dense::make_net<T>(hidden, shape.in_channels, shape.out_channels, shape.growth, lanes);
    if (backward) job.gradient = dense::make_net<T>(hidden, shape.out_channels, shape.in_channels, shape.growth, lanes);
    places.emplace(job.net, job.winograd);
    gradient_places.emplace(job.gradient, job.winograd);

    // The job's nets have no weights yet, so that no bias is known to be 0: the rings' sizes are upper bounds.
    const auto size = [&](size_t elements) { return dense::Workspace::bytes_of<T>(elements); };
    const auto rings_of = [&](int64_t columns, int parts) {
      return size(kernels_of<T>().workspace(job, columns, parts, backward));
    };
    const size_t packed = size(places->elements) + (backward ? size(gradient_places->elements) : 0);
    const auto bytes = [&](int64_t columns, int64_t slots, int parts) {
      return packed + size_t(slots) * (rings_of(columns, parts) + (backward ? parts * size(places->elements) : 0));
    };
    tiling = dense::make_tiling(shape, threads, backward, job.coupling.walk != CouplingWalk::kNone,
                                job.winograd ? dense::kTile : 1, dense::Workspace::limit(), bytes);
    planned = bytes(tiling.tile_columns(), tiling.slots, tiling.parts);
    rings_stride = rings_of(tiling.tile_columns(), tiling.parts) / sizeof(T);
  }

  // Takes the planned memory and packs the weights.
  void begin(const DenseBlockParams& p, bool backward) {
    memory.emplace(planned);
    rings = memory->template take<T>(rings_stride * size_t(tiling.slots));
    if (backward) sums = memory->template take<T>(places->elements * size_t(workers()));
    place_net(job.net, *places, memory->template take<T>(places->elements), reinterpret_cast<const T* const*>(p.biases),
              shape.growth);
    if (backward)
      place_net(job.gradient, *gradient_places, memory->template take<T>(gradient_places->elements),
                static_cast<const T* const*>(nullptr), shape.growth);
    pack(reinterpret_cast<const T* const*>(p.weights), backward);
  }
  void pack(const T* const* weights, bool backward) const {
    const std::vector<LevelSource> all = level_sources(job.net.hidden);
    for_each(int64_t(all.size()) * (backward ? 2 : 1), parallel_for, [&](int64_t i) {
      const auto [k, s] = all[size_t(i) % all.size()];
      if (size_t(i) < all.size())
        pack(job.net, k, s, dense::forward_taps(shape, weights, k, s));
      else
        pack(job.gradient, k, s, dense::gradient_taps(shape, weights, k, s));
    });
  }
  void pack(const dense::Net<T>& net, int k, int s, const dense::Taps<T>& taps) const {
    T* level = const_cast<T*>(net.weights[k]);
    if constexpr (sizeof(T) == 4)
      if (job.winograd)
        return kernels().winograd.pack(net, k, s, taps.from, taps.out_stride, taps.in_stride, taps.mirrored,
                                       taps.outputs, taps.channels, level);
    dense::pack_direct(net, kernels_of<T>().lanes, job.rounding, k, s, taps, level);
  }

  int64_t workers() const { return tiling.slots * tiling.parts; }

  // Calls run(tile, share, slot, workspace) for every tile of every slot, in order; start(worker) before.
  template <typename Start, typename F>
  void for_each_tile(Start&& start, F&& run) {
    std::deque<dense::Team> teams;
    for (int64_t slot = 0; slot < tiling.slots; ++slot) teams.emplace_back(tiling.parts);
    for_each(workers(), parallel_for, [&](int64_t worker) {
      const int64_t slot = worker / tiling.parts;
      const int part = int(worker % tiling.parts);
      dense::Team& team = teams[size_t(slot)];
      const dense::Team::Role role = team.join();
      if (role == dense::Team::Role::kNone) return;
      const bool all = role == dense::Team::Role::kAll;
      const dense::Share share = {tiling.parts, all ? 0 : part, all ? tiling.parts : part + 1, all ? nullptr : &team};
      for (int i = share.first; i < share.last; ++i) start(slot * tiling.parts + i);
      for (int64_t i = tiling.first(slot); i < tiling.first(slot + 1); ++i)
        run(tiling.tile(i), share, slot, rings + size_t(slot) * rings_stride);
    });
  }
};

template <typename T>
void forward(const DenseBlockParams& p, int threads, ParallelFor parallel_for) {
  if (is_empty(p.shape)) return;
  Call<T> call(p, threads, parallel_for, false);
  call.begin(p, false);
  call.for_each_tile([](int64_t) {}, [&](const dense::Tile& tile, const dense::Share& share, int64_t,
                                         T* workspace) { kernels_of<T>().forward(call.job, tile, share, workspace); });
}

// Sums of the slots' accumulators into the gradients of the parameters.
template <typename T>
void reduce(const Call<T>& call, const DenseBlockBackwardParams& p) {
  const dense::Net<T>& net = call.job.net;
  const int64_t slots = call.workers();
  const size_t stride = call.places->elements;
  const std::vector<LevelSource> all = level_sources(net.hidden);
  for_each(int64_t(all.size()), call.parallel_for, [&](int64_t i) {
    const auto [k, s] = all[size_t(i)];
    auto* const* grads = reinterpret_cast<T* const*>(p.grad_weights);
    const dense::Taps<T> taps = dense::forward_taps<T>(call.shape, grads, k, s);
    T* to = const_cast<T*>(taps.from);
    const T* from = call.sums + call.places->weights[k];
    if constexpr (sizeof(T) == 4)
      if (call.job.winograd)
        return kernels().winograd.reduce(net, k, s, from, stride, slots, taps.outputs, taps.channels, to,
                                         taps.out_stride);
    dense::reduce_direct(net, k, s, from, stride, slots, taps, to);
  });
  for (int k = 1; k <= net.hidden + 1; ++k)
    for (int64_t o = 0; o < (k <= net.hidden ? call.shape.growth : call.shape.out_channels); ++o) {
      double sum = 0;
      for (int64_t slot = 0; slot < slots; ++slot)
        sum += double(call.sums[size_t(slot) * stride + call.places->bias[k] + o]);
      static_cast<T*>(p.grad_biases[k - 1])[o] = T(sum);
    }
}

template <typename T>
void backward(const DenseBlockBackwardParams& p, int threads, ParallelFor parallel_for) {
  if (is_empty(p.forward.shape)) return zero_gradients<T>(p);
  Call<T> call(p.forward, threads, parallel_for, true, p.coupling);
  call.begin(p.forward, true);
  call.job.grad_y = static_cast<const T*>(p.grad_y.data);
  call.job.grad_y_batch_stride = p.grad_y.batch_stride;
  call.job.grad_x = static_cast<T*>(p.grad_x);
  const dense::LevelPlaces<T>& places = *call.places;
  std::vector<dense::Accumulators<T>> sums(size_t(call.workers()));
  for (size_t worker = 0; worker < sums.size(); ++worker)
    for (int k = 1; k <= call.job.net.hidden + 1; ++k) {
      sums[worker].weights[k] = call.sums + worker * places.elements + places.weights[k];
      sums[worker].bias[k] = call.sums + worker * places.elements + places.bias[k];
    }
  call.for_each_tile([&](int64_t worker) { std::fill_n(call.sums + worker * places.elements, places.elements, T(0)); },
                     [&](const dense::Tile& tile, const dense::Share& share, int64_t slot, T* workspace) {
                       kernels_of<T>().backward(call.job, tile, share, sums.data() + slot * share.parts, workspace);
                     });
  reduce(call, p);
}

}  // namespace

void set_dense_block_workspace(size_t bytes) { dense::Workspace::set_limit(bytes); }
size_t dense_block_workspace() { return dense::Workspace::limit(); }

size_t dense_block_planned_bytes(const DenseBlockParams& p, bool backward, bool coupled, int threads) {
  check_params(p);
  DenseBlockCoupling coupling;
  if (coupled) coupling.walk = CouplingWalk::kForward;
  if (is_empty(p.shape)) return 0;
  if (p.dtype == DType::kFloat64) return Call<double>(p, threads, nullptr, backward, coupling).planned;
  return Call<float>(p, threads, nullptr, backward, coupling).planned;
}

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
