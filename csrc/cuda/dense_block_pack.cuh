// Packing of the weights: for each level, tile of outputs and group of 16 channels, a 16 x (tile outputs) matrix.
//
// Groups in the order in which all kernels add: the slices of source 0, then for each hidden slice the taps, columns
// before rows. Within a group the plain kernels want [channel][output]; tensor cores want the registers of each lane
// together (fragments of mma.sync).
#pragma once

#include "dense_block_slices.cuh"

namespace ivan_fast::cuda {

// What one launch packs: the forward of some dense blocks and, for a backward, their mirrored nets.
template <typename T, typename S>
struct PackTask {
  int nets;
  const T* weights[kMaxNets][kMaxLevels];  // of the dense blocks, [outputs, channels, 3, 3]
  const T* biases[kMaxNets][kMaxLevels];
  PackedNet packed[2];  // forward, mirrored
  S* to[2];             // [net]
  T* bias;              // [net]
  DenseBlockOperand operand;
};

// The weight of level m that multiplies channel k of group g for output o; 0 in the padding.
template <typename T>
__device__ inline T weight_of(const DenseNet& net, const T* const* weights, int m, int o, int g, int k) {
  if (o >= net.outputs(m)) return T(0);
  // Source j of the net (0, or a hidden level), its channel c and the tap.
  int j, c, kh, kw;
  const int first = net.source_slices();
  if (g < first) {
    const int unfolded = g * kSlice + k;
    if (unfolded >= 9 * net.in_channels) return T(0);
    j = 0;
    c = unfolded / 9;
    kh = unfolded % 9 / 3;
    kw = unfolded % 3;
  } else {
    const int slice = (g - first) / 9, tap = (g - first) % 9;
    j = 1 + slice / net.level_slices();
    c = slice % net.level_slices() * kSlice + k;
    if (c >= net.growth) return T(0);
    kh = tap % 3;
    kw = tap / 3;
  }
  // The convolution of the dense block, its output channel `out` and its input channel `in`.
  int level = m, out = o, in = j == 0 ? c : net.in_channels + (j - 1) * net.growth + c;
  int inputs = net.in_channels + (m - 1) * net.growth;
  if (net.mirrored) {
    const int x_channels = net.out_channels;
    level = j == 0 ? net.hidden + 1 : net.hidden + 1 - j;
    out = c;
    in = m > net.hidden ? o : x_channels + (net.hidden - m) * net.growth + o;
    inputs = x_channels + (level - 1) * net.growth;
    kh = 2 - kh;
    kw = 2 - kw;
  }
  return weights[level - 1][(std::int64_t(out) * inputs + in) * 9 + kh * 3 + kw];
}

// Where an element of a group's matrix belongs: channel and output.
struct Place {
  int channel, output;
};

// For the plain kernels.
struct RowMajor {
  __device__ static Place place(int i, int outputs) { return {i / outputs, i % outputs}; }
};

// For mma.sync: a register of a lane holds 2 channels of 16 bits, or 1 of 32. Two tiles of 8 outputs lie together,
// so that a lane reads 16 bytes.
template <typename S>
struct Fragments {
  __device__ static Place place(int i, int outputs) {
    constexpr int kPerRegister = 4 / sizeof(S);
    const int word = i / kPerRegister, part = i % kPerRegister;
    const int step_words = outputs * 8;  // of one instruction's 32 bytes of channels
    const int step = word / step_words, w = word % step_words;
    const int registers = outputs == 8 ? 2 : 4;
    const int reg = w % registers, lane = w / registers % 32, pair = w / registers / 32;
    const int channel = step * 8 * kPerRegister + (reg % 2) * 4 * kPerRegister + lane % 4 * kPerRegister + part;
    return {channel, (pair * 2 + reg / 2) * 8 + lane / 4};
  }
};

// Level blockIdx.y + 1; blockIdx.z counts nets, first all forward, then all mirrored.
template <typename Layout, typename T, typename S>
__global__ void __launch_bounds__(kThreads) pack_kernel(const __grid_constant__ PackTask<T, S> task) {
  const int m = static_cast<int>(blockIdx.y) + 1;
  const int which = static_cast<int>(blockIdx.z) / task.nets, own = static_cast<int>(blockIdx.z) % task.nets;
  const DenseNet& net = task.packed[which].net;
  const int outputs = net.tile_outputs(m), matrix = kSlice * outputs;
  const std::int64_t groups = net.groups(m), count = net.weight_elements(m);
  const std::int64_t step = std::int64_t(gridDim.x) * blockDim.x;
  const std::int64_t begin = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  S* to = task.to[which] + own * task.packed[which].elements() + task.packed[which].offset[m - 1];
  for (std::int64_t i = begin; i < count; i += step) {
    const Place place = Layout::place(static_cast<int>(i % matrix), outputs);
    const std::int64_t group = i / matrix % groups;
    const int o = static_cast<int>(i / matrix / groups) * outputs + place.output;
    to[i] =
        to_operand<S>(weight_of(net, task.weights[own], m, o, static_cast<int>(group), place.channel), task.operand);
  }
  if (net.mirrored) return;
  T* bias = task.bias + own * task.packed[which].bias_elements() + task.packed[which].bias_offset[m - 1];
  for (std::int64_t o = begin; o < net.bias_elements(m); o += step)
    bias[o] = o < net.outputs(m) ? task.biases[own][m - 1][o] : T(0);
}

}  // namespace ivan_fast::cuda
