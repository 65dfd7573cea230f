// Scalar formulas of the ops, the one place they are written: used by the CPU and by the CUDA kernels.
//
// Every multiply-add is explicit and compilers are told not to contract others (-ffp-contract=off, -fmad=false), so
// that the forward, inverse and recomputing kernels round alike wherever they share a formula. Host functions have
// internal linkage: each file is compiled for several instruction sets, and the linker must never give one set's code
// to another.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define IVAN_HD static __host__ __device__ __forceinline__
#define IVAN_HOST static __host__ __forceinline__
#else
#define IVAN_HD static inline __attribute__((always_inline))
#define IVAN_HOST static inline __attribute__((always_inline))
#endif

namespace ivan_fast {

// a * b + c, in one rounding wherever the instruction set can.
template <typename T>
IVAN_HD T multiply_add(T a, T b, T c) {
#if defined(__CUDA_ARCH__)
  return ::fma(a, b, c);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  if constexpr (sizeof(T) == 4) {
    return __builtin_fmaf(a, b, c);
  } else {
    return __builtin_fma(a, b, c);
  }
#else
  return a * b + c;
#endif
}

// --- exp on the host, in plain arithmetic that compilers vectorise ------------------------------------------------

// exp(x) = 2^n (1 + p) with n = round(x / ln 2) and p = expm1(x - n ln 2) from its Taylor series (|x - n ln 2| < 0.35).
template <typename T>
struct ExpParts {
  T shifted;  // n + magic: n sits in the low bits of the mantissa
  T n;
  T p;
};

template <typename T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  using Bits = std::uint32_t;
  static constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // n * kLn2High is exact
  static constexpr float kMin = -104.0f, kMax = 89.0f;                        // beyond: exp is 0, or infinite
  static constexpr float kMinNormal = -87.0f;                                 // exp is still a normal number
  static constexpr int kTerms = 8, kMantissaBits = 23, kExponentBias = 127;
};

template <>
struct ExpConstants<double> {
  using Bits = std::uint64_t;
  static constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kMin = -746.0, kMax = 710.0;
  static constexpr double kMinNormal = -708.0;
  static constexpr int kTerms = 14, kMantissaBits = 52, kExponentBias = 1023;
};

constexpr double factorial(int k) { return k <= 1 ? 1.0 : k * factorial(k - 1); }

// sum over j = k .. last of r^(j - k) / j!, by Horner's rule; a recursion, since vectorisers want no inner loop.
template <typename T, int k, int last>
IVAN_HOST T exp_series(T r) {
  constexpr T inverse_factorial = static_cast<T>(1.0 / factorial(k));
  if constexpr (k == last) {
    return inverse_factorial;
  } else {
    return multiply_add(exp_series<T, k + 1, last>(r), r, inverse_factorial);
  }
}

// 2^k, where `shifted` is k + magic and k is the exponent of a normal number.
template <typename T>
IVAN_HOST T power_of_two(T shifted) {
  using C = ExpConstants<T>;
  typename C::Bits bits;
  std::memcpy(&bits, &shifted, sizeof(T));
  bits = (bits + C::kExponentBias) << C::kMantissaBits;
  T power;
  std::memcpy(&power, &bits, sizeof(T));
  return power;
}

// x within [kMin, kMax] or NaN (which p hands on).
template <typename T>
IVAN_HOST ExpParts<T> exp_parts(T x) {
  using C = ExpConstants<T>;
  const T shifted = multiply_add(x, T(1.44269504088896340736), C::kMagic);
  const T n = shifted - C::kMagic;
  const T r = multiply_add(-n, C::kLn2Low, multiply_add(-n, C::kLn2High, x));
  return {shifted, n, multiply_add(r * r, exp_series<T, 2, C::kTerms>(r), r)};
}

template <typename T>
IVAN_HOST T host_exp(T x) {
  using C = ExpConstants<T>;
  x = x < C::kMin ? C::kMin : x;  // a NaN passes both
  x = x > C::kMax ? C::kMax : x;
  const ExpParts<T> e = exp_parts(x);
  // 2^n in two factors, each a normal number, so that results under- and overflow as they should.
  const T half_shifted = multiply_add(e.n, T(0.5), C::kMagic);
  const T rest = e.n - (half_shifted - C::kMagic);
  const T first = power_of_two(half_shifted);
  return multiply_add(first, e.p, first) * power_of_two(rest + C::kMagic);
}

// --- formulas of the affine coupling ------------------------------------------------------------------------------

template <typename T>
IVAN_HD T exponential(T x) {
#if defined(__CUDA_ARCH__)
  return ::exp(x);
#else
  return host_exp(x);
#endif
}

// exp(x) and exp(x) - 1 for x <= 0, neither with cancellation; on the host exp(x) is 0 where it is not a normal number.
template <typename T>
IVAN_HD void exponential_nonpositive(T x, T& exp_x, T& expm1_x) {
#if defined(__CUDA_ARCH__)
  exp_x = ::exp(x);
  expm1_x = ::expm1(x);
#else
  const bool vanishes = x < ExpConstants<T>::kMinNormal;  // no NaN does
  const ExpParts<T> e = exp_parts(vanishes ? ExpConstants<T>::kMinNormal : x);
  const T scale = power_of_two(e.shifted);
  exp_x = vanishes ? T(0) : multiply_add(scale, e.p, scale);
  expm1_x = multiply_add(scale, e.p, scale - T(1));
#endif
}

// s = clamp (2 sigmoid(h) - 1) = clamp tanh(h / 2), and slope = ds/dh = 2 clamp sigmoid(h) sigmoid(-h).
// With e = exp(-|h|): |s| = clamp (1 - e) / (1 + e), slope = 2 clamp e / (1 + e)^2.
template <typename T>
IVAN_HD void log_scale(T h, T clamp, T& s, T& slope) {
  T e, em1;
  exponential_nonpositive(h < T(0) ? h : -h, e, em1);
  const T inverse = T(1) / (T(2) + em1);
  const T magnitude = -em1 * inverse * clamp;
  s = h < T(0) ? -magnitude : magnitude;
  slope = T(2) * clamp * (e * inverse) * inverse;
}

enum class CouplingOp : int { kForward, kInverse, kBackward, kInverseBackward, kRecomputeBackward };

// One element of each op on the coupled half of the state. `state` is x, or y where the op starts from the output.
//   forward             y = x e^s + g
//   inverse             x = (y - g) e^-s
//   backward            grad_x = grad_y e^s,   grad_h = grad_x x ds/dh            (grad_g = grad_y)
//   inverse_backward    grad_y = grad_x e^-s,  grad_h = -grad_x x ds/dh           (grad_g = -grad_y)
//   recompute_backward  inverse, then backward
template <CouplingOp op, typename T>
IVAN_HD void coupling_element(T state, T h, T g, T grad, T clamp, T& out, T& grad_state, T& grad_h) {
  T s, slope;
  log_scale(h, clamp, s, slope);
  if constexpr (op == CouplingOp::kForward) {
    out = multiply_add(state, exponential(s), g);
  } else if constexpr (op == CouplingOp::kInverse) {
    out = (state - g) * exponential(-s);
  } else if constexpr (op == CouplingOp::kBackward) {
    grad_state = grad * exponential(s);
    grad_h = grad_state * state * slope;
  } else if constexpr (op == CouplingOp::kInverseBackward) {
    grad_state = grad * exponential(-s);
    grad_h = -grad * state * slope;
  } else {
    out = (state - g) * exponential(-s);
    grad_state = grad * exponential(s);
    grad_h = grad_state * out * slope;
  }
}

}  // namespace ivan_fast
