// Warp operations, tensor-core products, fragment loads, asynchronous copies and 16-bit conversions, in plain C++.
#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_tensor_core.h"
#include "emulator.h"

namespace cuda_emulation {
namespace {

using Decode = float (*)(std::uint16_t);

// In tensor cores products are exact and sums lose little: here both are in double, rounded once per instruction.
template <int kDepth>
void product(const float (&a)[16][kDepth], const float (&b)[kDepth][8], const void* const* in, void* const* out,
             std::size_t offset) {
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    float d[4];
    std::memcpy(d, static_cast<const char*>(in[lane]) + offset, sizeof d);
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
      double sum = d[i];
      for (int k = 0; k < kDepth; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
      d[i] = static_cast<float>(sum);
    }
    std::memcpy(out[lane], d, sizeof d);
  }
}

template <int kDepth>
struct Half16 {  // operands of 16 bits, kDepth 8 or 16
  std::uint32_t a[kDepth / 4], b[kDepth / 8];
  float d[4];
};

void whole_warp(unsigned mask, void* const* out) {
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1) || out[lane] == nullptr) fail("a warp instruction ran without lane %d", lane);
  }
}

template <int kDepth, Decode decode>
void product16(unsigned mask, const void* const* in, void* const* out) {
  using Operands = Half16<kDepth>;
  whole_warp(mask, out);
  float a[16][kDepth], b[kDepth][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& o = *static_cast<const Operands*>(in[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < kDepth / 4; ++r) {
      for (int i = 0; i < 2; ++i) {
        a[g + 8 * (r % 2)][2 * t + i + 8 * (r / 2)] = decode(static_cast<std::uint16_t>(o.a[r] >> (16 * i)));
      }
    }
    for (int r = 0; r < kDepth / 8; ++r) {
      for (int i = 0; i < 2; ++i) b[2 * t + i + 8 * r][g] = decode(static_cast<std::uint16_t>(o.b[r] >> (16 * i)));
    }
  }
  product(a, b, in, out, offsetof(Operands, d));
}

struct Tf32 {
  std::uint32_t a[4], b[2];
  float d[4];
};

void product_tf32(unsigned mask, const void* const* in, void* const* out) {
  whole_warp(mask, out);
  const auto truncated = [](std::uint32_t bits) { return __uint_as_float(bits & 0xffffe000u); };
  float a[16][8], b[8][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& o = *static_cast<const Tf32*>(in[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r) a[g + 8 * (r % 2)][t + 4 * (r / 2)] = truncated(o.a[r]);
    for (int r = 0; r < 2; ++r) b[t + 4 * r][g] = truncated(o.b[r]);
  }
  product(a, b, in, out, offsetof(Tf32, d));
}

template <int kDepth, Decode decode, std::size_t kA, std::size_t kB>
void mma16(const char* name, float (&d)[4], const std::uint32_t (&a)[kA], const std::uint32_t (&b)[kB]) {
  Half16<kDepth> in;
  static_assert(sizeof in.a == sizeof a && sizeof in.b == sizeof b);
  std::memcpy(in.a, a, sizeof a);
  std::memcpy(in.b, b, sizeof b);
  std::memcpy(in.d, d, sizeof d);
  warp_collective(name, ~0u, &in, d, product16<kDepth, decode>);
}

struct Row {
  const std::uint16_t* row;
  int matrices;
  bool transposed;
};

void load_matrices(unsigned mask, const void* const* in, void* const* out) {
  whole_warp(mask, out);
  const Row& first = *static_cast<const Row*>(in[0]);
  for (int m = 0; m < first.matrices; ++m) {
    std::uint16_t matrix[8][8];
    std::uintptr_t taken[8];  // what 16 bytes of shared memory's 128 bytes of banks a row takes, by the row's address
    for (int r = 0; r < 8; ++r) {
      const std::uint16_t* row = static_cast<const Row*>(in[8 * m + r])->row;
      if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0)
        fail("ldmatrix: the row of lane %d is misaligned", 8 * m + r);
      race::access(row, 16, false, block.threads[std::size_t(current->linear / 32 * 32 + 8 * m + r)]);
      for (int c = 0; c < 8; ++c) matrix[r][c] = row[c];
      taken[r] = reinterpret_cast<std::uintptr_t>(row) / 16;
      for (int before = 0; before < r; ++before)
        bank_conflicts += taken[before] != taken[r] && taken[before] % 8 == taken[r] % 8;
    }
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      const unsigned low = first.transposed ? matrix[2 * t][g] : matrix[g][2 * t];
      const unsigned high = first.transposed ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
      static_cast<std::uint32_t*>(out[lane])[m] = low | high << 16;
    }
  }
}

void copy_groups(std::size_t remaining) {
  Thread& thread = *current;
  for (; thread.groups.size() > remaining; thread.groups.pop_front()) {
    for (const Copy& copy : thread.groups.front()) {
      race::access(copy.from, static_cast<std::size_t>(copy.bytes), false, thread);
      race::finish_copy(copy.to, static_cast<std::size_t>(copy.bytes + copy.zeros), thread);
      std::memcpy(copy.to, copy.from, static_cast<std::size_t>(copy.bytes));
      std::memset(copy.to + copy.bytes, 0, static_cast<std::size_t>(copy.zeros));
    }
  }
}

void combine_shuffle(unsigned mask, const void* const* in, void* const* out) {
  for (int lane = 0; lane < 32; ++lane) {
    if (in[lane] == nullptr) continue;
    const int source = static_cast<const Shuffled*>(in[lane])->source;
    if (!(mask >> source & 1) || in[source] == nullptr)
      fail("shuffle: lane %d reads lane %d, which is absent", lane, source);
    *static_cast<std::uint64_t*>(out[lane]) = static_cast<const Shuffled*>(in[source])->value;
  }
}

void combine_ballot(unsigned, const void* const* in, void* const* out) {
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (in[lane] != nullptr && *static_cast<const bool*>(in[lane])) bits |= 1u << lane;
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (out[lane] != nullptr) *static_cast<unsigned*>(out[lane]) = bits;
  }
}

struct Muted {
  Muted() { ++race::muted; }
  ~Muted() { --race::muted; }
};

}  // namespace

void shuffle(unsigned mask, const Shuffled& in, std::uint64_t& out) {
  warp_collective("shuffle", mask, &in, &out, combine_shuffle);
}

unsigned ballot(unsigned mask, bool predicate) {
  unsigned bits = 0;
  warp_collective("ballot", mask, &predicate, &bits, combine_ballot);
  return bits;
}

void mma_bf16_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  mma16<16, from_bfloat16>("mma_bf16_16x8x16", d, a, b);
}

void mma_f16_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  mma16<16, from_half>("mma_f16_16x8x16", d, a, b);
}

void mma_f16_16x8x8(float (&d)[4], const std::uint32_t (&a)[2], const std::uint32_t (&b)[1]) {
  mma16<8, from_half>("mma_f16_16x8x8", d, a, b);
}

void mma_tf32_16x8x8(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  Tf32 in;
  std::memcpy(in.a, a, sizeof a);
  std::memcpy(in.b, b, sizeof b);
  std::memcpy(in.d, d, sizeof d);
  warp_collective("mma_tf32_16x8x8", ~0u, &in, d, product_tf32);
}

std::uint32_t to_tf32(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

void ldmatrix(std::uint32_t* registers, int matrices, bool transposed, const void* row) {
  const Row in{static_cast<const std::uint16_t*>(row), matrices, transposed};
  warp_collective("ldmatrix", ~0u, &in, registers, load_matrices);
}

void cp_async(void* to, const void* from, int bytes, int valid) {
  const Muted muted;
  const auto size = static_cast<std::uintptr_t>(bytes);
  if (valid < 0 || valid > bytes) fail("cp_async: %d valid bytes of %d", valid, bytes);
  if (reinterpret_cast<std::uintptr_t>(to) % size != 0) fail("cp_async: the target is not aligned to %d bytes", bytes);
  if (reinterpret_cast<std::uintptr_t>(from) % size != 0)
    fail("cp_async: the source is not aligned to %d bytes", bytes);
  race::start_copy(to, size, *current);
  current->copies.push_back({static_cast<char*>(to), static_cast<const char*>(from), valid, bytes - valid});
}

void cp_async_commit() {
  const Muted muted;
  current->groups.push_back(std::move(current->copies));
  current->copies.clear();
}

void cp_async_wait(int groups) {
  const Muted muted;
  copy_groups(static_cast<std::size_t>(groups));
}

std::uint16_t to_bfloat16(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

std::uint16_t to_half(float value) {
  const std::uint32_t bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above
  if (magnitude < 0x38800000u) {                        // subnormal: a multiple of 2^-24
    const auto units = static_cast<std::uint16_t>(std::lrintf(__uint_as_float(magnitude) * 16777216.0f));
    return static_cast<std::uint16_t>(sign | units);
  }
  return static_cast<std::uint16_t>(sign | ((magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13));
}

float from_half(std::uint16_t bits) {
  const std::uint32_t exponent = bits >> 10 & 31u, fraction = bits & 0x3ffu;
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) return std::copysign(static_cast<float>(fraction) * 5.9604644775390625e-8f, __uint_as_float(sign));
  return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
}

}  // namespace cuda_emulation
