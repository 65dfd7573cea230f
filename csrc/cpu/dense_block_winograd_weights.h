// Weights into Winograd's form, U = G w G^T, and the gradient of U back: grad_w = G^T grad_U G. In double.
#pragma once

#include "dense_block_plan.h"
#include "dense_block_vector.h"

namespace ivan_fast::cpu::IVAN_ISA {

// G of F(4, 3): row f is (1, p, p^2) / product of (p - q) over the other finite points q; the last is infinity's.
constexpr double kPointProductA =
    2 * dense::kPointA * dense::kPointA * (dense::kPointA * dense::kPointA - dense::kPointB * dense::kPointB);
constexpr double kPointProductB =
    2 * dense::kPointB * dense::kPointB * (dense::kPointB * dense::kPointB - dense::kPointA * dense::kPointA);
constexpr double kFilterTransform[dense::kPoints][3] = {
    {1 / (dense::kPointA * dense::kPointA * dense::kPointB * dense::kPointB), 0, 0},
    {1 / kPointProductA, dense::kPointA / kPointProductA, dense::kPointA * dense::kPointA / kPointProductA},
    {1 / kPointProductA, -dense::kPointA / kPointProductA, dense::kPointA * dense::kPointA / kPointProductA},
    {1 / kPointProductB, dense::kPointB / kPointProductB, dense::kPointB * dense::kPointB / kPointProductB},
    {1 / kPointProductB, -dense::kPointB / kPointProductB, dense::kPointB * dense::kPointB / kPointProductB},
    {0, 0, 1}};

constexpr int kWeightLanes = 16;  // outputs transformed together; the loops over them are left to the vectoriser

// Where a level keeps channel c of source s for outputs [first, first + count): output i and frequency f at
// at[i] + f * step. `in_blocks`: as weights, in blocks of outputs; else as gradients, all outputs side by side.
struct TransformedPlaces {
  size_t at[kWeightLanes], step;
  bool adjacent = true;

  TransformedPlaces(const dense::Net<float>& net, int k, int s, int c, int first, int count, bool in_blocks) {
    const size_t channels = dense::channels_before(net, k), channel = dense::channels_before(net, s) + size_t(c);
    const bool dot = k == net.hidden + 1 && net.out_dot;
    const int width = dense::level_width(net, k);
    step = dot ? channels : channels * size_t(width);
    for (int i = 0; i < count; ++i) {
      const int o = first + i, block = in_blocks ? dense::kBlockVectors * kLanes<float> : width;
      const int begin = o / block * block, block_width = width - begin < block ? width - begin : block;
      at[i] = dot ? size_t(o) * dense::kFrequencies * channels + channel
                  : size_t(begin) * channels + channel * size_t(block_width) + size_t(o - begin);
      adjacent = adjacent && at[i] == at[0] + size_t(i);
    }
  }
};

static void pack_winograd(const dense::Net<float>& net, int k, int s, const float* from, int64_t out_stride,
                          int64_t in_stride, bool mirrored, int outputs, int channels, float* level) {
  for (int c = 0; c < channels; ++c)
    for (int first = 0; first < outputs; first += kWeightLanes) {
      const int count = outputs - first < kWeightLanes ? outputs - first : kWeightLanes;
      const TransformedPlaces places(net, k, s, c, first, count, true);
      double w[9][kWeightLanes] = {}, half[dense::kPoints][3][kWeightLanes];
      for (int o = 0; o < count; ++o) {
        const float* taps = from + (first + o) * out_stride + c * in_stride;
        for (int q = 0; q < 9; ++q) w[q][o] = double(taps[mirrored ? 8 - q : q]);
      }
      for (int f = 0; f < dense::kPoints; ++f)
        for (int x = 0; x < 3; ++x)
          for (int o = 0; o < kWeightLanes; ++o)
            half[f][x][o] = kFilterTransform[f][0] * w[x][o] + kFilterTransform[f][1] * w[3 + x][o] +
                            kFilterTransform[f][2] * w[6 + x][o];
      for (int f = 0; f < dense::kPoints; ++f)
        for (int g = 0; g < dense::kPoints; ++g) {
          float u[kWeightLanes];
          for (int o = 0; o < kWeightLanes; ++o)
            u[o] = float(kFilterTransform[g][0] * half[f][0][o] + kFilterTransform[g][1] * half[f][1][o] +
                         kFilterTransform[g][2] * half[f][2][o]);
          float* to = level + size_t(f * dense::kPoints + g) * places.step;
          if (places.adjacent && count == kWeightLanes)
            for (int o = 0; o < kWeightLanes; ++o) to[places.at[0] + size_t(o)] = u[o];
          else
            for (int o = 0; o < count; ++o) to[places.at[o]] = u[o];
        }
    }
}

static void reduce_winograd(const dense::Net<float>& net, int k, int s, const float* sums, size_t stride, int64_t slots,
                            int outputs, int channels, float* to, int64_t out_stride) {
  for (int c = 0; c < channels; ++c)
    for (int first = 0; first < outputs; first += kWeightLanes) {
      const int count = outputs - first < kWeightLanes ? outputs - first : kWeightLanes;
      const TransformedPlaces places(net, k, s, c, first, count, false);
      double half[3][dense::kPoints][kWeightLanes] = {}, w[9][kWeightLanes] = {};
      for (int f = 0; f < dense::kPoints; ++f)
        for (int g = 0; g < dense::kPoints; ++g) {
          double u[kWeightLanes] = {};
          for (int64_t slot = 0; slot < slots; ++slot) {
            const float* from = sums + size_t(slot) * stride + size_t(f * dense::kPoints + g) * places.step;
            if (places.adjacent && count == kWeightLanes)
              for (int o = 0; o < kWeightLanes; ++o) u[o] += double(from[places.at[0] + size_t(o)]);
            else
              for (int o = 0; o < count; ++o) u[o] += double(from[places.at[o]]);
          }
          for (int y = 0; y < 3; ++y)
            for (int o = 0; o < kWeightLanes; ++o) half[y][g][o] += kFilterTransform[f][y] * u[o];
        }
      for (int y = 0; y < 3; ++y)
        for (int g = 0; g < dense::kPoints; ++g)
          for (int x = 0; x < 3; ++x)
            for (int o = 0; o < kWeightLanes; ++o) w[3 * y + x][o] += kFilterTransform[g][x] * half[y][g][o];
      for (int o = 0; o < count; ++o)
        for (int q = 0; q < 9; ++q) to[(first + o) * out_stride + c * 9 + q] = float(w[q][o]);
    }
}

}  // namespace ivan_fast::cpu::IVAN_ISA
