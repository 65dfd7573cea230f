// Python module ivan_fast._C: what was built and what it runs on, as plain data. Importing it registers the ops.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>

#include "cpu/heap.h"
#include "cpu/isa.h"
#include "cuda/dense_block_fused_geometry.h"
#include "cuda/dense_block_geometry.h"
#include "cuda/pointwise_geometry.h"
#include "ivan_fast/dense_block.h"

#ifdef IVAN_FAST_WITH_CUDA
#include "ivan_fast/cuda_info.h"
#include "ivan_fast/dense_block_cuda.h"
#endif

namespace py = pybind11;
using ivan_fast::cpu::Isa;

namespace {

py::list supported_isas() {
  py::list names;
  for (int i = 0; i < ivan_fast::cpu::kIsaCount; ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (ivan_fast::cpu::isa_supported(isa)) names.append(ivan_fast::cpu::isa_name(isa));
  }
  return names;
}

py::dict build_info() {
  py::dict info;
  info["version"] = IVAN_FAST_VERSION;
  info["compiler"] = IVAN_FAST_COMPILER;
  info["build_type"] = IVAN_FAST_BUILD_TYPE;
  info["torch_target"] = "2.10";
  info["cpu_isa"] = ivan_fast::cpu::isa_name(ivan_fast::cpu::active_isa());
  info["cpu_isa_available"] = supported_isas();
  const char* forced = ivan_fast::cpu::forced_isa();
  info["cpu_isa_forced"] = forced == nullptr ? py::object(py::none()) : py::object(py::str(forced));
#ifdef IVAN_FAST_WITH_CUDA
  info["with_cuda"] = true;
  info["cuda_runtime"] = ivan_fast::cuda::runtime_version();
  info["cuda_archs"] = IVAN_FAST_CUDA_ARCHS;
  info["cuda_compiler"] = IVAN_FAST_CUDA_COMPILER;
  info["dense_block_cuda"] = ivan_fast::cuda::fused_selected() ? "fused" : "layerwise";
#else
  info["with_cuda"] = false;
  info["cuda_runtime"] = py::none();
  info["cuda_archs"] = "";
  info["cuda_compiler"] = "";
  info["dense_block_cuda"] = py::none();
#endif
  return info;
}

void select_fused([[maybe_unused]] bool fused) {
#ifdef IVAN_FAST_WITH_CUDA
  ivan_fast::cuda::select_fused(fused);
#else
  throw std::runtime_error("ivan_fast was built without CUDA: there is no kernel of the dense block to choose");
#endif
}

using Sizes = std::array<std::int64_t, 7>;  // batch, in, out, growth, depth, height, width
ivan_fast::DenseBlockShape shape_of(const Sizes& s) { return {s[0], s[1], s[2], s[3], s[4], s[5], s[6]}; }

py::dict dense_block_cuda_plan(const Sizes& sizes, int nets, std::size_t operand_size, std::size_t state_size, int pass,
                               std::size_t limit) {
  using namespace ivan_fast::cuda;
  const DenseBlockPlan plan =
      make_plan(shape_of(sizes), nets, operand_size, state_size, static_cast<DenseBlockPass>(pass), limit);
  const auto corners = [&](std::int64_t i) {
    const Tile t = plan.tiling.tile(i);
    return py::make_tuple(t.image, t.images, t.row0, t.row1, t.col0, t.col1);
  };
  py::dict d;
  d["images"] = plan.tiling.images;
  d["rows"] = plan.tiling.rows;
  d["cols"] = plan.tiling.cols;
  d["tiles"] = plan.tiling.count();
  d["first"] = corners(0);
  d["last"] = corners(plan.tiling.count() - 1);
  d["splits"] = plan.splits;
  d["weights"] = plan.source;
  d["bytes"] = plan.bytes;
  return d;
}

// What a pixel of a dense block costs on tensor cores: multiply-adds, padding included (every packed weight multiplies
// once), and slices.
py::dict dense_block_cuda_work(const Sizes& sizes) {
  using namespace ivan_fast::cuda;
  const auto shape = shape_of(sizes);
  check_shape(shape);
  const DenseNet net = forward_net(shape);
  py::dict d;
  d["forward"] = PackedNet(net).elements();
  d["gradient"] = PackedNet(gradient_net(shape)).elements();
  d["weights"] = GradientUnits(shape).units() * kPair * kPair;
  d["source_slices"] = net.source_slices();
  d["level_slices"] = net.level_slices();
  return d;
}

py::dict dense_block_fused_geometry(const Sizes& sizes, bool mirrored, int operand_size, int multiprocessors,
                                    int shared_bytes) {
  using namespace ivan_fast::cuda;
  const auto shape = shape_of(sizes);
  const auto g = fused_geometry(mirrored ? gradient_net(shape) : forward_net(shape), shape.batch, shape.height,
                                shape.width, operand_size, {80, multiprocessors, shared_bytes});
  py::dict d;
  d["possible"] = g.possible;
  d["cols"] = g.cols;
  d["rows"] = g.rows;
  d["strip"] = g.strip;
  d["strips"] = g.strips;
  d["block_rows"] = g.block_rows;
  d["bands"] = g.bands;
  d["threads"] = g.threads;
  d["resident"] = g.resident;
  d["shared_bytes"] = g.shared_bytes;
  return d;
}

// Launch geometry of the CUDA kernels, whether or not they are built: (grid_x, grid_y, block_x, block_y).
py::tuple pointwise_launch(std::int64_t samples, std::int64_t items, std::int64_t max_blocks) {
  const auto l = ivan_fast::cuda::pointwise_launch(samples, items, max_blocks);
  return py::make_tuple(l.grid_x, l.grid_y, l.block_x, l.block_y);
}

py::tuple pointwise_span(std::uintptr_t address, std::int64_t length, int element_size, int width) {
  const auto s = ivan_fast::cuda::span_of(address, length, element_size, width);
  return py::make_tuple(s.head, s.packs, s.items);
}

std::int64_t pointwise_element(std::int64_t head, std::int64_t packs, std::int64_t item, int width) {
  return item < packs ? head + item * width : ivan_fast::cuda::Span{head, packs, 0}.single(item, width);
}

// sizes: batch, in_channels, out_channels, growth, depth, height, width; float32.
size_t planned_bytes(const std::array<std::int64_t, 7>& sizes, bool fast, bool backward, bool coupled, int threads) {
  ivan_fast::DenseBlockParams params{};
  params.shape = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]};
  params.winograd = fast;
  return ivan_fast::cpu::dense_block_planned_bytes(params, backward, coupled, threads);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled core of ivan_fast: importing it registers torch.ops.ivan_fast.*";
  ivan_fast::cpu::active_isa();             // a wrong IVAN_FAST_CPU_ISA is an error here, not in the middle of a run
  ivan_fast::cpu::dense_block_workspace();  // the same of IVAN_FAST_WORKSPACE_MB
#ifdef IVAN_FAST_WITH_CUDA
  ivan_fast::cuda::fused_selected();  // and so is a wrong IVAN_FAST_CUDA_KERNEL
#endif
  m.def("build_info", &build_info, "Versions, CUDA architectures and instruction sets of this build, as a dict.");
  m.def("dense_block_workspace", &ivan_fast::cpu::dense_block_workspace, "Bytes of the dense block's row rings.");
  m.def("set_dense_block_workspace", &ivan_fast::cpu::set_dense_block_workspace, py::arg("bytes"));
  m.def("select_fused", &select_fused, py::arg("fused"));
  m.def("dense_block_cuda_plan", &dense_block_cuda_plan, py::arg("sizes"), py::arg("nets"), py::arg("operand_size"),
        py::arg("state_size"), py::arg("pass_"), py::arg("limit"),
        "Tiles and workspace of a CUDA dense block; pass_: 0 forward, 1 backward, 2 backward with a coupling.");
  m.def("dense_block_cuda_work", &dense_block_cuda_work, py::arg("sizes"),
        "Multiply-adds of a pixel on tensor cores, by pass, and slices.");
  m.def("dense_block_fused_geometry", &dense_block_fused_geometry, py::arg("sizes"), py::arg("mirrored"),
        py::arg("operand_size"), py::arg("multiprocessors"), py::arg("shared_bytes"),
        "Launch of the fused CUDA kernel, if it is possible.");
  m.def("pointwise_launch", &pointwise_launch, py::arg("samples"), py::arg("items"),
        py::arg("max_blocks") = ivan_fast::cuda::kMaxGridX, "Grid and block of a pointwise CUDA kernel.");
  m.def("pointwise_span", &pointwise_span, py::arg("address"), py::arg("length"), py::arg("element_size"),
        py::arg("width"), "(head, packs, items) of a sample that begins at this address.");
  m.def("pointwise_most_items", &ivan_fast::cuda::most_items, py::arg("length"), py::arg("width"));
  m.def("pointwise_element", &pointwise_element, py::arg("head"), py::arg("packs"), py::arg("item"), py::arg("width"),
        "First element of an item.");
  m.def("mix_backward_partials", &ivan_fast::cuda::mix_backward_partials, py::arg("batch"), py::arg("pixels"),
        "Partial sums that channel_mix_backward needs room for on CUDA.");
  m.def("dense_block_planned_bytes", &planned_bytes, py::arg("sizes"), py::arg("fast"), py::arg("backward"),
        py::arg("coupled"), py::arg("threads"), "Bytes that a call on the CPU works in.");
  m.def("return_large_blocks", &ivan_fast::cpu::return_large_blocks, "See csrc/cpu/heap.h.");
}
