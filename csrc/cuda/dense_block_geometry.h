// Sizes of the CUDA dense block as plain host functions: packed weights, tiles of an image, workspace, splits.
//
// Channels are kept in slices of 16: [image][slice][row][column][16]. Source 0 of a net (x, or grad_y for the mirrored
// net of the input gradient) is unfolded: its channels are the 9 taps of each channel and one constant 1, and levels
// read it at the centre only. So a level is a sum over `groups` of 16 channels at one tap.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "ivan_fast/dense_block_cuda.h"

// Functions that kernels use too.
#if defined(__CUDACC__)
#define IVAN_BOTH __host__ __device__
#else
#define IVAN_BOTH
#endif

namespace ivan_fast::cuda {

constexpr int kSlice = 16;      // channels
constexpr int kPair = 32;       // channels of a pair of slices: outputs of a tile, sides of a weight gradient's item
constexpr int kMaxLevels = 16;  // convolutions

IVAN_BOTH constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// A dense block, or the mirrored one whose output is grad_x: level m of that is the gradient of hidden level
// hidden + 1 - m.
struct DenseNet {
  int hidden;        // hidden levels
  int in_channels;   // of source 0
  int out_channels;  // of the output level
  int growth;        // of a hidden level
  bool mirrored;

  IVAN_BOTH int source_slices() const { return int(ceil_div(9 * std::int64_t(in_channels) + 1, kSlice)); }
  IVAN_BOTH int level_slices() const { return int(ceil_div(growth, kSlice)); }
  // Groups that level m (1 .. hidden + 1) sums over.
  IVAN_BOTH std::int64_t groups(int m) const { return source_slices() + std::int64_t(m - 1) * level_slices() * 9; }
  IVAN_BOTH int outputs(int m) const { return m > hidden ? out_channels : growth; }
  // Outputs of one tile of the level's matrix product.
  IVAN_BOTH int tile_outputs(int m) const { return m > hidden && out_channels <= kSlice ? 8 : kPair; }
  IVAN_BOTH int output_tiles(int m) const { return int(ceil_div(outputs(m), tile_outputs(m))); }
  IVAN_BOTH std::int64_t weight_elements(int m) const {
    return std::int64_t(output_tiles(m)) * tile_outputs(m) * groups(m) * kSlice;
  }
  IVAN_BOTH std::int64_t bias_elements(int m) const { return std::int64_t(output_tiles(m)) * tile_outputs(m); }
};

// Throws std::runtime_error for what the kernels, and the arrays here, are not made for.
inline void check_shape(const DenseBlockShape& s) {
  const auto refuse = [](const std::string& what) { throw std::runtime_error("dense_block: " + what); };
  if (s.depth < 1 || s.depth > kMaxLevels)
    refuse("depth is " + std::to_string(s.depth) + ", expected 1 to " + std::to_string(kMaxLevels));
  for (const std::int64_t channels : {s.in_channels, s.out_channels, s.growth})
    if (channels < 1 || channels > 4096)
      refuse("channel counts and growth must be 1 to 4096, found " + std::to_string(channels));
  for (const std::int64_t size : {s.height, s.width})
    if (size > 1 << 20) refuse("height and width must be at most 1048576, found " + std::to_string(size));
}

// Where the levels of a packed net lie, in elements.
struct PackedNet {
  DenseNet net;
  std::int64_t offset[kMaxLevels + 1], bias_offset[kMaxLevels + 1];  // of level m at m - 1; at the end their sums

  PackedNet() = default;
  explicit PackedNet(const DenseNet& n) : net(n), offset{}, bias_offset{} {
    for (int m = 1; m <= net.hidden + 1; ++m) {
      offset[m] = offset[m - 1] + net.weight_elements(m);
      bias_offset[m] = bias_offset[m - 1] + net.bias_elements(m);
    }
  }
  IVAN_BOTH std::int64_t elements() const { return offset[net.hidden + 1]; }
  IVAN_BOTH std::int64_t bias_elements() const { return bias_offset[net.hidden + 1]; }
};

inline DenseNet forward_net(const DenseBlockShape& s) {
  return {int(s.depth - 1), int(s.in_channels), int(s.out_channels), int(s.growth), false};
}
inline DenseNet gradient_net(const DenseBlockShape& s) {
  return {int(s.depth - 1), int(s.out_channels), int(s.in_channels), int(s.growth), true};
}

// Pixels around a tile where level m of the forward (hidden + 1: the output) must be known: for the output of the tile
// alone; in a backward also for the masks of the gradient levels, which need gradient_margin; with a coupling the
// output itself, of which the gradient of the tile is made, hidden + 1 pixels around it.
inline int output_margin(int hidden, DenseBlockPass pass) {
  return pass == DenseBlockPass::kCoupledBackward ? hidden + 1 : 0;
}
inline int level_margin(int hidden, DenseBlockPass pass, int m) {
  if (pass == DenseBlockPass::kBackward) return m > hidden ? 0 : 2 * hidden - m;
  return output_margin(hidden, pass) + hidden + 1 - m;
}
// Pixels around a tile for which the buffers hold values.
inline int halo(int hidden, DenseBlockPass pass) { return level_margin(hidden, pass, 1); }
inline int gradient_margin(int hidden, int m) { return hidden + 1 - m; }

// Weight gradients are sums over splits of a tile's pixels of 32 x 32 products, `units`, for each pair of slices of
// a level's gradient, pair of slices of a source, and tap. Units at all 9 taps come first (hidden to hidden), then
// those at the centre: the unfolded x with each hidden gradient, and every source with the unfolded grad_y.
struct GradientUnits {
  int hidden, pairs, x_pairs, grad_y_pairs;

  explicit GradientUnits(const DenseBlockShape& s)
      : hidden(int(s.depth - 1)),
        pairs(int(ceil_div(forward_net(s).level_slices(), 2))),
        x_pairs(int(ceil_div(forward_net(s).source_slices(), 2))),
        grad_y_pairs(int(ceil_div(gradient_net(s).source_slices(), 2))) {}

  IVAN_BOTH int nine_tap_items() const { return hidden * (hidden - 1) / 2 * pairs * pairs; }
  IVAN_BOTH int hidden_centre_items() const { return hidden * pairs * x_pairs; }
  IVAN_BOTH int centre_items() const { return hidden_centre_items() + grad_y_pairs * (x_pairs + hidden * pairs); }
  IVAN_BOTH std::int64_t units() const { return 9 * std::int64_t(nine_tap_items()) + centre_items(); }
};

// One launch's part of the output: some images, and the same rectangle of each.
struct Tile {
  std::int64_t image;
  int images, row0, row1, col0, col1;
};

struct Tiling {
  std::int64_t batch;
  int height, width;
  int images, rows, cols;  // of a tile

  std::int64_t count() const { return ceil_div(batch, images) * ceil_div(height, rows) * ceil_div(width, cols); }
  Tile tile(std::int64_t i) const {
    const std::int64_t across = ceil_div(width, cols), down = ceil_div(height, rows);
    const int col = int(i % across) * cols, row = int(i / across % down) * rows;
    const std::int64_t image = i / (across * down) * images;
    return {image, int(std::min<std::int64_t>(images, batch - image)),
            row,   std::min(row + rows, height),
            col,   std::min(col + cols, width)};
  }
};

// Pixels of a tile with its halo in an image of that size, at most.
inline std::int64_t padded_pixels(int rows, int cols, int height, int width, int margin) {
  return std::min<std::int64_t>(height, rows + 2 * std::int64_t(margin)) *
         std::min<std::int64_t>(width, cols + 2 * std::int64_t(margin));
}

constexpr int kMinTile = 16;                      // rows and columns that a tile has at least, where the image has
constexpr std::int64_t kMaxTilePixels = 1 << 24;  // so that offsets within a slice fit an int
// A grid has at most 65535 blocks along y (8 rows each) and z (up to 128 tiles of outputs an image and net).
constexpr int kMaxTileRows = 1 << 18, kMaxImages = 255;

// The tiles with the least recomputed halo whose padded pixels, all images of the tile together, are at most `pixels`.
inline Tiling make_tiling(const DenseBlockShape& s, int margin, std::int64_t pixels) {
  const int height = int(s.height), width = int(s.width);
  pixels = std::min(pixels, kMaxTilePixels);
  const int most_rows = std::min(height, kMaxTileRows);
  Tiling best{s.batch, height, width, 1, std::min(height, kMinTile), std::min(width, kMinTile)};
  const std::int64_t image = std::int64_t(height) * width;
  if (image <= pixels && height <= most_rows) {
    best.rows = height;
    best.cols = width;
    best.images = int(std::min<std::int64_t>({s.batch, pixels / image, kMaxImages}));
    return best;
  }
  double least = -1;
  for (int parts = 1; parts == 1 || ceil_div(width, parts) >= kMinTile; ++parts) {
    const int cols = int(ceil_div(width, parts));
    const std::int64_t padded = std::min<std::int64_t>(width, cols + 2 * std::int64_t(margin));
    std::int64_t rows = pixels / padded - (pixels / padded < height ? 2 * std::int64_t(margin) : 0);
    if (rows < std::min(height, kMinTile)) continue;
    rows = ceil_div(height, ceil_div(height, std::min<std::int64_t>(rows, most_rows)));
    const double cost = double(padded_pixels(int(rows), cols, height, width, margin)) / (double(rows) * cols);
    if (least >= 0 && cost >= least) continue;
    least = cost;
    best.rows = int(rows);
    best.cols = cols;
  }
  return best;
}

// How a tile's pixels are shared out among the partial sums of the weight gradient.
constexpr std::int64_t kSplitPixels = 1024;  // that a split has at least, if there are so many
constexpr int kMaxSplits = 512;

// Everything about a call's workspace, in bytes from its beginning.
struct DenseBlockPlan {
  DenseNet net, gradient;
  PackedNet packed, packed_gradient;  // the same two
  int nets;
  DenseBlockPass pass;
  Tiling tiling;
  int splits;
  std::int64_t parameters;                               // of a net
  std::size_t weights, bias, gradient_weights;           // packed, [net]
  std::size_t source, hidden, grad_source, grad_hidden;  // slices, [net][image], but source [image]
  std::size_t partial, sums;                             // of the weight gradients, [net]
  std::size_t outputs, gradients;  // images around a tile, [net], with a coupling: the outputs and their gradients
  std::size_t grad_x;              // images of a tile, [net], where there are two
  std::size_t bytes;
};

// operand_size: of what slices and packed weights are stored in; state_size: of sums.
inline DenseBlockPlan make_plan(const DenseBlockShape& s, int nets, std::size_t operand_size, std::size_t state_size,
                                DenseBlockPass pass, std::size_t limit) {
  const bool backward = pass != DenseBlockPass::kForward, coupled = pass == DenseBlockPass::kCoupledBackward;
  check_shape(s);
  DenseBlockPlan plan{};
  plan.net = forward_net(s);
  plan.gradient = gradient_net(s);
  plan.packed = PackedNet(plan.net);
  plan.packed_gradient = PackedNet(plan.gradient);
  plan.nets = nets;
  plan.pass = pass;
  std::size_t next = 0;
  const auto take = [&next](std::size_t bytes) {
    const std::size_t begin = next;
    next += (bytes + 255) / 256 * 256;
    return begin;
  };
  for (int m = 1; m <= plan.net.hidden + 1; ++m)
    plan.parameters += plan.net.outputs(m) * (1 + 9 * (plan.net.in_channels + std::int64_t(m - 1) * plan.net.growth));
  plan.weights = take(std::size_t(nets * plan.packed.elements()) * operand_size);
  plan.bias = take(std::size_t(nets * plan.packed.bias_elements()) * state_size);
  if (backward) plan.gradient_weights = take(std::size_t(nets * plan.packed_gradient.elements()) * operand_size);
  if (backward) plan.sums = take(std::size_t(nets * plan.parameters) * sizeof(double));

  const int hidden = plan.net.hidden, margin = halo(hidden, pass);
  const std::int64_t hidden_slices = std::int64_t(nets) * hidden * plan.net.level_slices();
  const std::int64_t grad_source_slices = std::int64_t(nets) * plan.gradient.source_slices();
  const std::int64_t slices =
      (backward ? 2 : 1) * hidden_slices + plan.net.source_slices() + (backward ? grad_source_slices : 0);
  const std::int64_t images = nets * ((coupled ? 2 * s.out_channels : 0) + (backward && nets > 1 ? s.in_channels : 0));
  const std::size_t pixel_bytes = std::size_t(slices) * kSlice * operand_size + std::size_t(images) * state_size;
  const std::size_t unit_bytes = std::size_t(nets * GradientUnits(s).units()) * kPair * kPair * state_size;
  const std::size_t partial_limit = backward ? std::max(limit / 4, unit_bytes) : 0;
  const std::size_t fixed = next + partial_limit + 8 * 256;
  plan.tiling = make_tiling(s, margin, std::int64_t((limit > fixed ? limit - fixed : 0) / pixel_bytes));

  const Tiling& t = plan.tiling;
  const std::int64_t pixels = t.images * padded_pixels(t.rows, t.cols, t.height, t.width, margin);
  const auto slice_bytes = [&](std::int64_t count) { return std::size_t(count * pixels) * kSlice * operand_size; };
  const auto image_bytes = [&](std::int64_t channels) { return std::size_t(nets * channels * pixels) * state_size; };
  plan.source = take(slice_bytes(plan.net.source_slices()));
  plan.hidden = take(slice_bytes(hidden_slices));
  if (backward) {
    plan.grad_source = take(slice_bytes(grad_source_slices));
    plan.grad_hidden = take(slice_bytes(hidden_slices));
    const std::int64_t own = std::int64_t(t.images) * t.rows * t.cols;
    plan.splits = int(std::max<std::int64_t>(
        1, std::min<std::int64_t>({own / kSplitPixels, kMaxSplits, std::int64_t(partial_limit / unit_bytes)})));
    plan.partial = take(std::size_t(plan.splits) * unit_bytes);
    if (nets > 1) plan.grad_x = take(image_bytes(s.in_channels));
  }
  if (coupled) {
    plan.outputs = take(image_bytes(s.out_channels));
    plan.gradients = take(image_bytes(s.out_channels));
  }
  plan.bytes = next;
  return plan;
}

}  // namespace ivan_fast::cuda
