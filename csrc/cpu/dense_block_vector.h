// The vector type of the instruction set this file is compiled for: one source, three builds.
// Only builtin vector types and inlined intrinsics: nothing here may become a shared symbol of the library, or
// the linker could keep the AVX-512 copy for every machine.
#pragma once

#include <cstdint>
#include <type_traits>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#define IVAN_INLINE static inline __attribute__((always_inline))

namespace ivan_fast::cpu::IVAN_ISA {

// IVAN_DENSE_BLOCK_WIDE: the shapes of AVX-512 in generic vectors, to test them on machines without it.
#if defined(__AVX512F__) || defined(IVAN_DENSE_BLOCK_WIDE)
#define IVAN_DENSE_BLOCK_14 1
constexpr int kVectorBytes = 64;
constexpr int kBlockPixels = 14;  // 14 x 2 accumulators + 2 weights + 1 broadcast of 32 registers
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kVectorBytes = 32;
constexpr int kBlockPixels = 6;  // 6 x 2 accumulators + 2 weights + 1 broadcast of 16 registers
#else
constexpr int kVectorBytes = 16;
constexpr int kBlockPixels = 6;
#endif

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef T unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
};
template <typename T>
using Vec = typename VectorOf<T>::type;
template <typename T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <typename T>
IVAN_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(p);
}
template <typename T>
IVAN_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(p) = v;
}
template <typename T>
IVAN_INLINE Vec<T> broadcast(T s) {
  return s - Vec<T>{};
}

#if defined(__AVX512F__)
IVAN_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return _mm512_fmadd_ps(a, b, c); }
IVAN_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return _mm512_fmadd_pd(a, b, c); }
#elif defined(__AVX2__) && defined(__FMA__)
IVAN_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return _mm256_fmadd_ps(a, b, c); }
IVAN_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return _mm256_fmadd_pd(a, b, c); }
#else
IVAN_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return a * b + c; }
IVAN_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return a * b + c; }
#endif

// The first `count` < kLanes values at p, zeros after them; reads no further.
#if defined(__AVX512F__)
IVAN_INLINE Vec<float> load_first(const float* p, int count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), p);
}
IVAN_INLINE Vec<double> load_first(const double* p, int count) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1u), p);
}
#elif defined(__AVX2__) && defined(__FMA__)
IVAN_INLINE Vec<float> load_first(const float* p, int count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane));
}
IVAN_INLINE Vec<double> load_first(const double* p, int count) {
  const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
  return _mm256_maskload_pd(p, _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), lane));
}
#else
template <typename T>
IVAN_INLINE Vec<T> load_first(const T* p, int count) {
  T lane[kLanes<T>] = {};
  for (int i = 0; i < count; ++i) lane[i] = p[i];
  return load(lane);
}
#endif

template <typename T>
struct LaneIndex {
  using Integer = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Integer type __attribute__((vector_size(kVectorBytes)));
};

// Whether any value of `vectors` vectors at p differs from 0.
template <typename T>
IVAN_INLINE bool any_nonzero(const T* p, int vectors) {
  typename LaneIndex<T>::type different = load(p) != T(0);
  for (int i = 1; i < vectors; ++i) different |= load(p + i * kLanes<T>) != T(0);
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)different, (__m512i)different) != 0;
#elif defined(__AVX2__) && defined(__FMA__)
  return _mm256_movemask_epi8((__m256i)different) != 0;
#else
  bool any = false;
  for (int i = 0; i < kLanes<T>; ++i) any |= different[i] != 0;
  return any;
#endif
}

// Sum of the lanes in one fixed order: the upper half is added to the lower until one lane is left.
#if defined(__AVX2__)
IVAN_INLINE float sum_lanes(__m128 v) {
  v = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}
IVAN_INLINE double sum_lanes(__m128d v) { return _mm_cvtsd_f64(_mm_add_sd(v, _mm_unpackhi_pd(v, v))); }
IVAN_INLINE float sum_lanes(__m256 v) {
  return sum_lanes(_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)));
}
IVAN_INLINE double sum_lanes(__m256d v) {
  return sum_lanes(_mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1)));
}
#if defined(__AVX512F__)
IVAN_INLINE float sum_lanes(__m512 v) {
  return sum_lanes(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}
IVAN_INLINE double sum_lanes(__m512d v) {
  return sum_lanes(_mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1)));
}
#endif
#else
template <typename V>
IVAN_INLINE auto sum_lanes(V v) {
  constexpr int lanes = int(sizeof(V) / sizeof(v[0]));
#pragma GCC unroll 4
  for (int half = lanes / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
}
#endif

}  // namespace ivan_fast::cpu::IVAN_ISA
