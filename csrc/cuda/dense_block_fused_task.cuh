// What a launch of the fused kernel works on.
#pragma once

#include "dense_block_fused_geometry.h"
#include "dense_block_pack.cuh"

namespace ivan_fast::cuda {

// Images are numbered as in LevelTask.
template <typename S>
struct FusedTask {
  PackedNet packed;
  FusedGeometry geometry;
  int images;
  Images<const float> source[kMaxNets];  // read within `readable`, zeros beyond
  Region readable;
  Images<float> image[kMaxNets];  // the output level, within `own`
  Region strips, own;             // what the strips cover; of it, what the output is wanted for
  const S* weights;               // packed
  const float* bias;              // of the dense block's net
  Slices<S> hidden;               // where hidden rows within `strips` are kept; null: they are not
  Slices<S> mask;                 // of the mirrored net, whose level m has the mask of level hidden + 1 - m
  Region held;  // where hidden levels have values, zeros beyond: the image, or as far as masks are known
  float slope;
  DenseBlockOperand operand;
};

// One launch for all nets; dense_block_fused.cu holds it for the types of operands.
template <typename S>
void launch_fused(const FusedTask<S>& task, int nets, cudaStream_t stream);

}  // namespace ivan_fast::cuda
