# ruff: noqa: E501 (a fault a line reads as the table that it is)
"""Faults that a person could make in the kernels of csrc/cuda, by what they are about. test_mutations.py plants
each and expects a test to fail. Patterns are short, so that they survive other changes; one that no longer
matches fails and names itself."""

from __future__ import annotations

from planting import Fault

LAYER, MMA, MMA_GRADIENT = "dense_block_layer.cuh", "dense_block_mma.cuh", "dense_block_mma_wgrad.cuh"
GRADIENT, PACK, SLICES = "dense_block_wgrad.cuh", "dense_block_pack.cuh", "dense_block_slices.cuh"
FUSED, FUSED_GEOMETRY, FUSED_RUN = (
    "dense_block_fused.cuh",
    "dense_block_fused_geometry.h",
    "dense_block_fused_run.cuh",
)
RUN, GEOMETRY, COUPLING = "dense_block_run.cuh", "dense_block_geometry.h", "dense_block_coupling.cuh"

# name of the probes in test_mutations.py -> {what is wrong: the fault}
FAULTS: dict[str, dict[str, Fault]] = {
    "strict": {
        "last row of a patch": Fault(LAYER, r"i < (kPatchRows \* kPatchCols \* kPacks)", "kPatchRows * kPatchCols"),
        "pixels outside the buffer are read": Fault(LAYER, r"from\.region\.contains\(r, c\)", "true"),
        "last row of a region": Fault(LAYER, r"r >= (task\.region\.row1)", "task.region.row1 - 1"),
        "a column beyond a region": Fault(LAYER, r"c >= (task\.region\.col1)", "task.region.col1 + 1"),
        "last output channel": Fault(LAYER, r"first \+ o < (task\.outputs)", "task.outputs - 1"),
        "columns of the kernel mirrored": Fault(LAYER, r"\(centre \? 1 : (kw)\)", "2 - kw"),
        "bias forgotten": Fault(LAYER, r"T\(0\) : (task\.bias\[[^;]*\]);", "T(0)"),
        "mask of another slice": Fault(LAYER, r"task\.mask_slice \+ slice", "task.mask_slice"),
        "mask of another level": Fault(RUN, r"mask_slice = (\(p\.net\.hidden - m\) \* slices)", "(m - 1) * slices"),
        "derivative at zero": Fault(SLICES, r"sign > T\(0\)", "sign >= T(0)"),
        "sign of the derivative": Fault(SLICES, r"sign > T\(0\)", "sign < T(0)"),
        "a slice too many": Fault(LAYER, r"slice >= (task\.out_slices)", "task.out_slices + 1"),
        "taps of source 0 transposed": Fault(SLICES, r"row \+ (tap / 3) - 1", "tap % 3"),
        "a row below the image": Fault(SLICES, r"r < (task\.height)", "task.height + 1"),
        "a column before the image": Fault(SLICES, r"c >= (0) &&", "-1"),
        "the constant channel": Fault(SLICES, r"v = (T\(1\));", "T(0)"),
        "samples that lie apart": Fault(
            SLICES, r"data \+ (image \* image_stride)", "image * channel_stride"
        ),
        "taps transposed": Fault(PACK, r"kh = (tap % 3);", "tap / 3"),
        "taps not mirrored": Fault(PACK, r"kh = (2 - kh);", "kh"),
        "weight of the constant channel": Fault(PACK, r"unfolded >= (9 \* net\.in_channels)", "9 * net.in_channels + 1"),
        "channels of a second slice": Fault(PACK, r"(slice % net\.level_slices\(\) \* kSlice) \+ k", "0"),
        "bias forgotten in one level": Fault(PACK, r"o < net\.outputs\(m\) \? (task\.biases\[[^:]*\])", "m == 2 ? T(0) : task.biases[own][m - 1][o]"),
        "mirrored weights of another level": Fault(PACK, r"net\.hidden \+ 1 : (net\.hidden \+ 1 - j)", "j"),
    },
    "mma": {
        "pixels outside the buffer are read": Fault(MMA, r"held = (from\.region\.contains\(r, c\))", "true"),
        "output beyond the region": Fault(MMA, r"!(task\.region\.contains\(r, c\))", "true"),
        "hidden pixels beyond the region": Fault(MMA, r"!(task\.region\.contains\(r, c\))", "true", 1),
        "last output channel": Fault(MMA, r"out >= (task\.outputs)", "task.outputs - 1"),
        "both stages are one": Fault(MMA, r"shared \+ (s % 2) \*", "0"),
        "the other stage is multiplied": Fault(MMA, r"shared \+ (s % 2) \*", "1 - s % 2", 1),
        "kernel columns mirrored": Fault(MMA, r"lane % 16 \+ (kw - 1), step", "1 - kw"),
        "swizzle of the patch forgotten": Fault(MMA, r"part \^ (swizzle<S>\(p\))", "0"),
        "swizzle of the products forgotten": Fault(MMA, r"lane / 16\) \^ (swizzle<S>\(p\))", "0"),
        "chunks of a gradient's pixels": Fault(MMA_GRADIENT, r"pair_chunk<S>\((pixel), slice", "pixel + 1"),
        "bias of the output forgotten": Fault(MMA, r"bias == nullptr \? v : (v \+ bias\[o\])", "v"),
        "bias of hidden levels forgotten": Fault(MMA, r"sums\[i\] : (sums\[i\] \+ bias\[i\])", "sums[i]"),
        "mask of another slice": Fault(MMA, r"task\.mask_slice \+ slice", "task.mask_slice"),
        "a slice too many": Fault(MMA, r"slice >= (task\.out_slices)", "task.out_slices + 1"),
        "kernel rows mirrored": Fault(MMA, r"weights \+ (kh) \* matrix_words", "kKernelRows - 1 - kh"),
        "rows of a warp": Fault(MMA, r"(g \+ 8 \* half)\) \* stride", "g + 8 - 8 * half"),
        "halves of a fragment": Fault(PACK, r"\((reg % 2)\) \* 4", "1 - reg % 2"),
        "sources outside the buffer": Fault(MMA_GRADIENT, r"slice < pair\.count && (valid\.contains\(r, c\))", "true"),
        "second slice of a pair": Fault(MMA_GRADIENT, r"slice < (pair\.count)", "1"),
        "last warp's sum": Fault(MMA_GRADIENT, r"w < (8);", "7"),
        "taps mirrored": Fault(MMA_GRADIENT, r"(warp / 3), warp % 3", "2 - warp / 3"),
        "stage of the products": Fault(MMA_GRADIENT, r"shared \+ (\(i - begin\) % 2)", "0", 1),
    },
    "splits": {
        "first split": Fault(GRADIENT, r"step = (steps \* blockIdx\.y / gridDim\.y)", "steps * blockIdx.y / gridDim.y + (blockIdx.y > 0)"),
        "last split": Fault(GRADIENT, r"end = (steps \* \(blockIdx\.y \+ 1\) / gridDim\.y)", "steps * (blockIdx.y + 1) / gridDim.y - (blockIdx.y > 0)"),
        "one split's sums": Fault(GRADIENT, r"split < (task\.splits)", "task.splits - 1"),
        "first split on tensor cores": Fault(MMA_GRADIENT, r"begin = (tiles \* blockIdx\.y / gridDim\.y)", "tiles * blockIdx.y / gridDim.y + (blockIdx.y > 0)"),
        "last split on tensor cores": Fault(MMA_GRADIENT, r"end = (tiles \* \(blockIdx\.y \+ 1\) / gridDim\.y)", "tiles * (blockIdx.y + 1) / gridDim.y - (blockIdx.y > 0)"),
        "splits share their sums": Fault(GRADIENT, r"gridDim\.y \+ (blockIdx\.y)", "0"),
    },
    "gradients": {
        "second slice of a pair": Fault(GRADIENT, r"slices - 2 \* pair < (2)", "3"),
        "sources of a second pair": Fault(GRADIENT, r"from = (i % sources);", "i % (sources + 1)"),
        "a tap's row": Fault(GRADIENT, r"window\[(tap / kSide)\]", "kSide - 1 - tap / kSide"),
        "tap of the output level": Fault(GRADIENT, r"(out \* 9 \+ 8 - tap)", "out * 9 + tap"),
        "bias gradient's channel": Fault(GRADIENT, r"is_bias \? (9 \* net\.in_channels) : in \* 9 \+ tap", "9 * net.in_channels + 1"),
        "sums that were never made": Fault(GRADIENT, r"task\.first \? (0\.0)", "sums[i]"),
    },
    "tiles": {
        "border of a tile": Fault(GRADIENT, r"\? (own\.row1 \+ 1)", "own.row1"),
        "left border of a tile": Fault(GRADIENT, r"\? (own\.col0 - 1)", "own.col0"),
        "sums of the tiles before": Fault(RUN, r"reduce\((i == 0),", "true"),
        "sums over biases": Fault(GEOMETRY, r"plan\.sums = (take\([^;]*\));", "plan.bias"),
        "last tile": Fault(RUN, r"reduce\(i == 0, (i \+ 1 == tiles)\)", "i == 0"),
        "margin of a region": Fault(SLICES, r"tile\.row1 \+ (margin)", "margin - 1"),
        "margin of the hidden gradients": Fault(RUN, r"gradient_margin\(L, m\)", "gradient_margin(L, m) - (m == 1)"),
        "margin of the levels": Fault(RUN, r"level_margin\(L, plan\.pass, m\)", "level_margin(L, plan.pass, m) - (m == 1)"),
    },
    "workspace": {
        "everything overlaps": Fault(GEOMETRY, r"next \+= (\(bytes \+ 255\) / 256 \* 256)", "bytes / 512 * 256"),
        "hidden gradients over hidden levels": Fault(GEOMETRY, r"plan\.grad_hidden = (take\([^;]*\));", "plan.hidden"),
        "unfolded gradients over hidden levels": Fault(GEOMETRY, r"plan\.grad_source = (take\([^;]*\));", "plan.hidden"),
        "mirrored weights over weights": Fault(GEOMETRY, r"plan\.gradient_weights = (take\([^;]*\));", "plan.weights"),
        "hidden levels over source 0": Fault(GEOMETRY, r"plan\.hidden = (take\([^;]*\));", "plan.source"),
        "G's bias for both nets": Fault(MMA, r"task\.bias \+ (block\.net \* task\.bias_stride)", "0"),
        "two nets' weights are one": Fault(PACK, r"own \* (task\.packed\[which\]\.elements\(\))", "0"),
    },
    "fused": {
        "ring too small": Fault(FUSED_GEOMETRY, r"return (rows \+ hidden \+ 2 - j);", "rows + hidden + 1 - j"),
        "ring of source 0 too small": Fault(FUSED_GEOMETRY, r"return (2 \* rows \+ hidden \+ 2);", "rows + hidden + 1"),
        "a row above the image": Fault(FUSED, r"(task\.held\.contains\(row \+ r, col0 \+ col\));", "task.held.contains(row + r + 1, col0 + col)"),
        "a row below the image": Fault(FUSED, r"(task\.held\.contains\(row \+ r, col0 \+ col\));", "task.held.contains(row + r - 1, col0 + col)"),
        "a column before the image": Fault(FUSED, r"(task\.held\.contains\(row \+ r, col0 \+ col\));", "task.held.contains(row + r, col0 + col + 1)"),
        "a column after the image": Fault(FUSED, r"(task\.held\.contains\(row \+ r, col0 \+ col\));", "task.held.contains(row + r, col0 + col - 1)"),
        "last column of a strip": Fault(FUSED, r"col < (level \+ task\.geometry\.strip)", "level + task.geometry.strip - 1"),
        "last row of a band": Fault(FUSED, r"row \+ r < (row1);", "row1 - 1"),
        "last row of a band that is kept": Fault(FUSED, r"row \+ r >= (row1)\)", "row1 - 1"),
        "last columns that are kept": Fault(FUSED, r"min\(task\.geometry\.strip, (task\.strips\.col1 - first)\)", "task.strips.col1 - first - 1"),
        "bands overlap": Fault(FUSED, r"\+ (static_cast<int>\(blockIdx\.y\) \* g\.block_rows)", "static_cast<int>(blockIdx.y) * (g.block_rows - 1)"),
        "halo of a band": Fault(FUSED, r"end = (block\.row1 \+ hidden);", "block.row1 - 1"),
        "rows of source 0": Fault(FUSED, r"row == begin \? (row - 1)", "row"),
        "both stages are one": Fault(FUSED, r"block\.stage\((stage \^ 1)\)", "stage"),
        "bias of another level": Fault(FUSED, r"task\.packed\.bias_offset\[m - 1\]", "task.packed.bias_offset[0]"),
        "second tile of outputs": Fault(FUSED, r"weights \+= (block\.half \* tile_words);", "0"),
        "swizzle forgotten": Fault(FUSED, r"byte / 16 \^ (swizzle<S>\(p\))", "0"),
        "swizzle forgotten in what is kept": Fault(FUSED, r"chunk \^ (swizzle<S>\(p\))", "0"),
        "mask of another level": Fault(FUSED, r"\((net\.hidden - m)\) \* net\.level_slices\(\)", "m - 1"),
        "another image": Fault(FUSED, r"return (number\(\) - which\(\) \* task\.images);", "0"),
        "what is kept belongs to the first image": Fault(FUSED, r"task\.hidden\.at\((number\(\)),", "0"),
        "a ring's slot": Fault(FUSED, r"(\(row \+ r - origin\) % rows) \* row_bytes;", "(row + r - origin + 1) % rows"),
        "output outside what is wanted": Fault(FUSED, r"!(task\.own\.contains\(row \+ r, col0 \+ col\))", "true"),
        "last band": Fault(FUSED_GEOMETRY, r"g\.bands = int\((ceil_div\(height, g\.block_rows\))\)", "std::max<std::int64_t>(1, height / g.block_rows)"),
        "last strip": Fault(FUSED_GEOMETRY, r"g\.strips = int\((ceil_div\(width, g\.strip\))\)", "std::max<std::int64_t>(1, width / g.strip)"),
        "a ring's row in the mirrored net": Fault(FUSED, r"at\[0\] = (\(row - 1 - origin\) % rows)", "(row - 1 - origin + (kMirrored && row > row0)) % rows"),
        "rows wrap too late": Fault(FUSED, r"row_bytes == (rows \* row_bytes) \?", "(rows + 1) * row_bytes"),
        "room for one stage": Fault(FUSED_GEOMETRY, r"\+ (2 \* stage_bytes\(operand_size\));", "stage_bytes(operand_size)"),
        "outputs of G and H swapped": Fault(FUSED_RUN, r"t\.image\[n\] = (to\[n\]);", "to[run.call.nets - 1 - n]"),
        "G's gradient for both nets": Fault(FUSED_RUN, r"t\.source\[n\] = (grad_y\.from\[n\]);", "grad_y.from[0]"),
        "G's weights for both nets": Fault(FUSED, r"task\.weights \+ (which\(\) \* task\.packed\.elements\(\))", "0"),
        "masks of the first image": Fault(FUSED, r"task\.mask\.at\((number\(\))", "0"),
        "as far as masks are known": Fault(FUSED_RUN, r"t\.held = run\.region\(tile, (run\.plan\.net\.hidden)\);", "run.plan.net.hidden - 1"),
        "weights of the next step": Fault(FUSED, r"\|\| (row \+ kRows < end)\)", "row + kRows < end - kRows"),
        "margin of what is kept": Fault(FUSED_RUN, r"std::max\(margin, (L)\)", "L - 1"),
    },
    "walk": {
        "samples that lie apart": Fault(COUPLING, r"whole_images\(data == nullptr \? data : data \+ tile\.image \* from\.batch_stride, (from\.batch_stride)", "std::int64_t(s.out_channels) * height * width"),
        "inverse for forward": Fault(COUPLING, r"c\.walk == (CouplingWalk::kForward)", "CouplingWalk::kInverse"),
        "only the tile's own pixels": Fault(COUPLING, r"task\.region = (region);", "task.own"),
        "G's output for H's": Fault(COUPLING, r"read_only\(nets\.output\[(h)\]\)", "0"),
        "gradient of g": Fault(COUPLING, r"grad_g = (grad);", "grad_state"),
        "gradient of g on the inverse walk": Fault(COUPLING, r"grad_g = (-grad_state);", "grad_state"),
        "partial sums of G for both nets": Fault(GRADIENT, r"partial \+ (std::int64_t\(which\) \* task\.splits \* stride);", "0"),
        "gradients of x to one place": Fault(RUN, r"part\(plan\.grad_x, (n), channels", "0"),
        "two gradients of x are one": Fault(SLICES, r"\+ (\*second\.at\(image, channel, row, col\));", "T(0)"),
    },
    "state": {
        "steps of another sample": Fault("round_state.cu", r"o\.steps \+ (sample)", "0"),
        "input as if contiguous": Fault("round_state.cu", r"sample \* (o\.x_stride)", "o.length"),
    },
    "pointwise": {
        "tail is forgotten": Fault("pointwise_geometry.h", r"packs \+ (\(length - packs \* width\))\};", "0"),
        "stride of another operand": Fault("coupling.cu", r"sample \* (o\.h_stride) \+", "o.state_stride"),
        "weight is not transposed": Fault("channel_mix.cu", r"transposed \? (1) : channels", "channels"),
        "one block's sums are lost": Fault("channel_mix.cu", r"block < (blocks);", "blocks - 1"),
        "head of a sample": Fault("pointwise_geometry.h", r"past == 0 \? 0 : (width - past)", "width - past - 1"),
        "samples joined that lie apart": Fault("pointwise_geometry.h", r"o\.stride != (length)", "o.stride"),
        "first chunk of a block": Fault("channel_mix.cu", r"chunk == (blockIdx\.x) \? sum", "0"),
        "last lane of a sum": Fault("channel_mix.cu", r"offset = (16); offset > 0", "8"),
    },
}  # fmt: skip

# Faults that give right numbers in most orders of threads; the race check must notice them.
RACES: dict[str, Fault] = {
    "splits share their sums": Fault(GRADIENT, r"gridDim\.y \+ (blockIdx\.y)", "0"),
    "a slice beyond the last is fetched": Fault(MMA, r"\((s \+ 1 < all)\) fetch", "s + 1 <= all"),
    "an output of the next tile is written": Fault(
        MMA, r"i < (kOutputs \* L::kRows \* L::kCols);", "kOutputs * L::kRows * L::kCols + 1"
    ),
    "strips overlap": Fault(FUSED, r"col >= (level) && col < level", "0"),
    "bands overlap": Fault(FUSED, r"row \+ r >= (row0) && row", "0"),
    "tiles of a level overlap": Fault(LAYER, r"c >= (task\.region\.col1)", "task.region.col1 + 1"),
}
