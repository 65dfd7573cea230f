// Gradients of the parameters: sums over pixels of source * gradient for every pair of slices and tap, in splits of
// the pixels, and the sum over splits. No atomics; every sum has one fixed order.
#pragma once

#include "dense_block_slices.cuh"

namespace ivan_fast::cuda {

// The first stage, over one tile of the image; blockIdx.z is the net. Images are numbered as in LevelTask.
template <typename T, typename S>
struct GradientTask {
  Slices<S> source, hidden;            // unfolded x, and h_1 ..
  Slices<S> grad_source, grad_hidden;  // unfolded grad_y, and the masked gradients of h_L .. h_1
  GradientUnits units;
  int level_slices;
  int images;
  Region own;  // pixels to sum over
  T* partial;  // [nets][splits][units][32 of the gradient][32 of the source]

  __device__ T* partial_of(std::int64_t unit) const {
    const std::int64_t split = std::int64_t(blockIdx.z) * gridDim.y + blockIdx.y;
    return partial + (split * units.units() + unit) * kPair * kPair;
  }
};

// Two slices of images from `image` on; the second may not exist.
template <typename S>
struct SlicePair {
  Slices<S> from;
  int image, slice, count;
};

template <typename S>
struct GradientItem {
  SlicePair<S> gradient, source;
  std::int64_t unit;
};

template <typename S>
__device__ inline SlicePair<S> slice_pair(const Slices<S>& from, int image, int first, int slices, int pair) {
  return {from, image, first + 2 * pair, slices - 2 * pair < 2 ? 1 : 2};
}

template <typename T, typename S>
__device__ inline int first_image(const GradientTask<T, S>& task) {
  return static_cast<int>(blockIdx.z) * task.images;
}

template <typename T, typename S>
__device__ inline SlicePair<S> hidden_pair(const GradientTask<T, S>& task, int level, int pair) {
  return slice_pair(task.hidden, first_image(task), (level - 1) * task.level_slices, task.level_slices, pair);
}

template <typename T, typename S>
__device__ inline SlicePair<S> grad_hidden_pair(const GradientTask<T, S>& task, int level, int pair) {
  return slice_pair(task.grad_hidden, first_image(task), (task.units.hidden - level) * task.level_slices,
                    task.level_slices, pair);
}

// What item `i` of those at nine taps, or at the centre only, multiplies (order: GradientUnits).
template <int kTaps, typename T, typename S>
__device__ inline GradientItem<S> gradient_item(const GradientTask<T, S>& task, int i) {
  const GradientUnits& u = task.units;
  if constexpr (kTaps == 9) {
    const std::int64_t unit = 9 * std::int64_t(i);
    int level = 2;
    for (; i >= (level - 1) * u.pairs * u.pairs; ++level) i -= (level - 1) * u.pairs * u.pairs;
    const int sources = (level - 1) * u.pairs, from = i % sources;
    return {grad_hidden_pair(task, level, i / sources), hidden_pair(task, from / u.pairs + 1, from % u.pairs), unit};
  } else {
    const std::int64_t unit = 9 * std::int64_t(u.nine_tap_items()) + i;
    if (i < u.hidden_centre_items()) {
      const int pair = i / u.x_pairs;
      return {grad_hidden_pair(task, pair / u.pairs + 1, pair % u.pairs),
              slice_pair(task.source, 0, 0, task.source.count, i % u.x_pairs), unit};
    }
    i -= u.hidden_centre_items();
    const int sources = u.x_pairs + u.hidden * u.pairs, from = i % sources - u.x_pairs;
    const SlicePair<S> gradient =
        slice_pair(task.grad_source, first_image(task), 0, task.grad_source.count, i / sources);
    if (from < 0) return {gradient, slice_pair(task.source, 0, 0, task.source.count, i % sources), unit};
    return {gradient, hidden_pair(task, from / u.pairs + 1, from % u.pairs), unit};
  }
}

// A rectangle of pixels of a pair of slices, [row][col][32] with `stride` elements a pixel; zeros outside `valid`.
template <int kRows, int kCols, int kBlock, typename S>
__device__ inline void load_pair(S* to, int stride, const SlicePair<S>& pair, const Region& valid, int image, int row,
                                 int col) {
  constexpr int kWide = kPackWidth<S>, kPacks = kSlice / kWide;
  for (int i = threadIdx.x; i < kRows * kCols * 2 * kPacks; i += kBlock) {
    const int pixel = i / (2 * kPacks), slice = i / kPacks % 2, part = i % kPacks * kWide;
    const int r = row + pixel / kCols, c = col + pixel % kCols;
    Pack<S, kWide> values{};
    if (slice < pair.count && valid.contains(r, c))
      values =
          *reinterpret_cast<const Pack<S, kWide>*>(pair.from.at(pair.image + image, pair.slice + slice, r, c) + part);
    *reinterpret_cast<Pack<S, kWide>*>(to + pixel * stride + slice * kSlice + part) = values;
  }
}

// The pixels around `own` that buffers hold.
template <typename S>
__device__ inline Region with_border(const Region& own, const Slices<S>& from) {
  const Region& r = from.region;
  return {own.row0 > r.row0 ? own.row0 - 1 : r.row0, own.row1 < r.row1 ? own.row1 + 1 : r.row1,
          own.col0 > r.col0 ? own.col0 - 1 : r.col0, own.col1 < r.col1 ? own.col1 + 1 : r.col1};
}

constexpr int kGradRows = 4, kGradCols = 16;  // pixels of one step

// partial[o][c] = sum over pixels of gradient[pixel][o] * source[pixel + tap][c]. Block (x, y): split y of item x; a
// warp owns 4 outputs o, a lane one channel c, for all taps.
template <int kTaps, typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 2 : 1) gradient_kernel(GradientTask<T, T> task) {
  constexpr int kBorder = kTaps == 9 ? 1 : 0, kSide = kTaps == 9 ? 3 : 1;
  constexpr int kSourceRows = kGradRows + 2 * kBorder, kSourceCols = kGradCols + 2 * kBorder;
  __shared__ __align__(16) T source[kSourceRows * kSourceCols * kPair];
  __shared__ __align__(32) T gradient[kGradRows * kGradCols * kPair];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const GradientItem<T> item = gradient_item<kTaps>(task, static_cast<int>(blockIdx.x));
  const Region readable = with_border(task.own, item.source.from);
  const int across = (task.own.cols() + kGradCols - 1) / kGradCols;
  const int down = (task.own.rows() + kGradRows - 1) / kGradRows;
  const std::int64_t steps = std::int64_t(task.images) * across * down;
  const std::int64_t end = steps * (blockIdx.y + 1) / gridDim.y;

  T acc[kTaps][4] = {};
  for (std::int64_t step = steps * blockIdx.y / gridDim.y; step < end; ++step) {
    const int image = static_cast<int>(step / (across * down)), rest = static_cast<int>(step % (across * down));
    const int row = task.own.row0 + rest / across * kGradRows, col = task.own.col0 + rest % across * kGradCols;
    load_pair<kSourceRows, kSourceCols, kThreads>(source, kPair, item.source, readable, image, row - kBorder,
                                                  col - kBorder);
    load_pair<kGradRows, kGradCols, kThreads>(gradient, kPair, item.gradient, task.own, image, row, col);
    __syncthreads();
#pragma unroll 1
    for (int r = 0; r < kGradRows; ++r) {
      const T* from = source + r * kSourceCols * kPair + lane;
      T window[kSide][kSide];  // [row][column % 3]: each value is read once
#pragma unroll
      for (int i = 0; i < kSide; ++i)
#pragma unroll
        for (int j = 0; j + 1 < kSide; ++j) window[i][j] = from[(i * kSourceCols + j) * kPair];
#pragma unroll
      for (int c = 0; c < kGradCols; ++c) {
#pragma unroll
        for (int i = 0; i < kSide; ++i)
          window[i][(c + kSide - 1) % kSide] = from[(i * kSourceCols + c + kSide - 1) * kPair];
        const Pack<T, 4> out = *reinterpret_cast<const Pack<T, 4>*>(gradient + (r * kGradCols + c) * kPair + warp * 4);
#pragma unroll
        for (int tap = 0; tap < kTaps; ++tap)
#pragma unroll
          for (int o = 0; o < 4; ++o)
            acc[tap][o] = multiply_add(out.v[o], window[tap / kSide][(c + tap % kSide) % kSide], acc[tap][o]);
      }
    }
    __syncthreads();
  }
  T* partial = task.partial_of(item.unit);
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap)
#pragma unroll
    for (int o = 0; o < 4; ++o) partial[(tap * kPair + warp * 4 + o) * kPair + lane] = acc[tap][o];
}

// The second stage.
template <typename T>
struct ReduceTask {
  DenseNet net;
  GradientUnits units;
  const T* partial;
  int splits;
  double* sums;             // over the tiles of the image so far, [nets][levels][weights | biases]
  std::int64_t parameters;  // of a net
  bool first, last;
  T* grad_weights[kMaxNets][kMaxLevels];
  T* grad_biases[kMaxNets][kMaxLevels];
};

// Where the first stage has put the gradient of parameter i of level m: weights [outputs, channels, 3, 3], then biases.
template <typename T>
__device__ inline std::int64_t partial_of(const ReduceTask<T>& task, int m, std::int64_t i, std::int64_t weights) {
  const DenseNet& net = task.net;
  const GradientUnits& u = task.units;
  const int inputs = net.in_channels + (m - 1) * net.growth;
  const bool is_bias = i >= weights;
  const int out = static_cast<int>(is_bias ? i - weights : i / 9 / inputs);
  const int in = is_bias ? 0 : static_cast<int>(i / 9 % inputs), tap = is_bias ? 4 : static_cast<int>(i % 9);
  const bool from_x = is_bias || in < net.in_channels;
  const int level = from_x ? 0 : (in - net.in_channels) / net.growth + 1;
  const int c = from_x ? 0 : (in - net.in_channels) % net.growth;
  std::int64_t unit;
  int o, k;              // within the unit
  if (m > net.hidden) {  // source at the centre, grad_y at the mirrored tap
    const int g = out * 9 + 8 - tap, x = is_bias ? 9 * net.in_channels : in * 9 + 4;
    const int source = from_x ? x / kPair : u.x_pairs + (level - 1) * u.pairs + c / kPair;
    unit = 9 * std::int64_t(u.nine_tap_items()) + u.hidden_centre_items() +
           g / kPair * (u.x_pairs + u.hidden * u.pairs) + source;
    o = g % kPair;
    k = (from_x ? x : c) % kPair;
  } else if (from_x) {
    const int x = is_bias ? 9 * net.in_channels : in * 9 + tap;
    unit = 9 * std::int64_t(u.nine_tap_items()) + ((m - 1) * u.pairs + out / kPair) * u.x_pairs + x / kPair;
    o = out % kPair;
    k = x % kPair;
  } else {
    const int items = (m - 1) * (m - 2) / 2 * u.pairs * u.pairs;
    unit = 9 * std::int64_t(items + (out / kPair * (m - 1) + level - 1) * u.pairs + c / kPair) + tap;
    o = out % kPair;
    k = c % kPair;
  }
  return (unit * kPair + o) * kPair + k;
}

// Level blockIdx.y + 1 of net blockIdx.z.
template <typename T>
__global__ void __launch_bounds__(kThreads) reduce_kernel(const __grid_constant__ ReduceTask<T> task) {
  const DenseNet& net = task.net;
  const int m = static_cast<int>(blockIdx.y) + 1, which = static_cast<int>(blockIdx.z);
  double* sums = task.sums + which * task.parameters;
  for (int l = 1; l < m; ++l) sums += net.outputs(l) * (1 + 9 * (net.in_channels + std::int64_t(l - 1) * net.growth));
  const std::int64_t weights = 9 * net.outputs(m) * (net.in_channels + std::int64_t(m - 1) * net.growth);
  const std::int64_t stride = task.units.units() * kPair * kPair, step = std::int64_t(gridDim.x) * blockDim.x;
  const T* partial = task.partial + std::int64_t(which) * task.splits * stride;
  for (std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < weights + net.outputs(m); i += step) {
    const T* from = partial + partial_of(task, m, i, weights);
    double sum = task.first ? 0.0 : sums[i];
    for (int split = 0; split < task.splits; ++split) sum += static_cast<double>(from[split * stride]);
    sums[i] = sum;
    if (!task.last) continue;
    if (i < weights) {
      task.grad_weights[which][m - 1][i] = static_cast<T>(sum);
    } else {
      task.grad_biases[which][m - 1][i - weights] = static_cast<T>(sum);
    }
  }
}

}  // namespace ivan_fast::cuda
