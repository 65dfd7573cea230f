// What plu_weight and plu_weight_backward compute, step by step: written once for the CPU and for CUDA, which give the
// same bits but for exp.
//
// `each(f)` calls f(i, j) for all i, j < C in any order and returns when all calls are done: a loop on the CPU, one
// thread for each (i, j) and a barrier on CUDA. Everything is float64 and rounded once, where it is stored.
#pragma once
#include "ivan_fast/plu.h"
#include "ivan_fast/scalar.h"

namespace ivan_fast {

struct PluScratch {
  double left[kPluChannels * kPluChannels];   // L + I, rows of C as all of these
  double right[kPluChannels * kPluChannels];  // U + diag(sign_s exp(log_s))
  double first[kPluChannels * kPluChannels], second[kPluChannels * kPluChannels];
  double table[2][kPluChannels * 2 * kPluChannels];  // [W | I] on its way to [I | W^-1]: before and after a step
};

// sum_k a[k a_step] b[k b_step], k ascending.
template <typename A, typename B>
IVAN_HD double plu_dot(const A* a, int a_step, const B* b, int b_step, int channels) {
  double sum = static_cast<double>(a[0]) * static_cast<double>(b[0]);
  for (int k = 1; k < channels; ++k) {
    sum = multiply_add(static_cast<double>(a[k * a_step]), static_cast<double>(b[k * b_step]), sum);
  }
  return sum;
}

template <typename T>
IVAN_HD void plu_factor_elements(const PluFactors& f, int i, int j, double& left, double& right) {
  const int at = i * f.channels + j;
  left = i > j ? static_cast<double>(static_cast<const T*>(f.lower)[at]) : i == j ? 1.0 : 0.0;
  right = i < j ? static_cast<double>(static_cast<const T*>(f.upper)[at]) : 0.0;
  if (i == j) {
    right = static_cast<double>(static_cast<const T*>(f.sign_s)[i]) *
            exponential(static_cast<double>(static_cast<const T*>(f.log_s)[i]));
  }
}

// W, rounded to T and stored as O; then its inverse by Gauss-Jordan elimination with partial pivoting.
template <typename T, typename O, typename Each>
IVAN_HD void plu_weight_steps(const PluWeightParams& params, PluScratch& s, const Each& each) {
  const PluFactors& f = params.factors;
  const int c = f.channels, row = 2 * c;
  each([&](int i, int j) { plu_factor_elements<T>(f, i, j, s.left[i * c + j], s.right[i * c + j]); });
  each([&](int i, int j) { s.first[i * c + j] = plu_dot(s.left + i * c, 1, s.right + j, c, c); });
  each([&](int i, int j) {
    const T weight = static_cast<T>(plu_dot(static_cast<const T*>(f.p) + i * c, 1, s.first + j, c, c));
    static_cast<O*>(params.weight)[i * c + j] = static_cast<O>(weight);
    s.table[0][i * row + j] = static_cast<double>(weight);
    s.table[0][i * row + c + j] = i == j ? 1.0 : 0.0;
  });
  for (int k = 0; k < c; ++k) {
    const double* from = s.table[k % 2];
    double* to = s.table[1 - k % 2];
    each([&](int i, int j) {
      int pivot = k;  // row of the largest in column k, from row k on
      for (int r = k + 1; r < c; ++r) {
        if (std::fabs(from[r * row + k]) > std::fabs(from[pivot * row + k])) pivot = r;
      }
      const double* pivots = from + pivot * row;
      if (i == k) {
        to[i * row + j] = pivots[j] / pivots[k];
        to[i * row + c + j] = pivots[c + j] / pivots[k];
      } else {  // rows k and `pivot` change places
        const double* own = from + (i == pivot ? k : i) * row;
        const double factor = own[k] / pivots[k];
        to[i * row + j] = multiply_add(-factor, pivots[j], own[j]);
        to[i * row + c + j] = multiply_add(-factor, pivots[c + j], own[c + j]);
      }
    });
  }
  each([&](int i, int j) { params.inverse[i * c + j] = s.table[c % 2][i * row + c + j]; });
}

// With G = grad_weight - W^-T grad_inverse W^-T (since dW^-1 = -W^-1 dW W^-1) and Q = P^T G:
//   grad_lower = Q (U + D)^T below the diagonal, grad_upper = (L + I)^T Q above it, grad_log_s = D (L + I)^T Q on it.
template <typename T, typename G, typename Each>
IVAN_HD void plu_backward_steps(const PluBackwardParams& params, PluScratch& s, const Each& each) {
  const PluFactors& f = params.factors;
  const int c = f.channels;
  const double *inverse = params.inverse, *grad_inverse = params.grad_inverse;
  each([&](int i, int j) {
    plu_factor_elements<T>(f, i, j, s.left[i * c + j], s.right[i * c + j]);
    if (grad_inverse != nullptr) s.first[i * c + j] = plu_dot(inverse + i, c, grad_inverse + j, c, c);
  });
  each([&](int i, int j) {
    const G* grad_weight = static_cast<const G*>(params.grad_weight);
    double grad = grad_weight == nullptr ? 0.0 : static_cast<double>(grad_weight[i * c + j]);
    if (grad_inverse != nullptr) grad -= plu_dot(s.first + i * c, 1, inverse + j * c, 1, c);
    s.second[i * c + j] = grad;
  });
  each([&](int i, int j) { s.first[i * c + j] = plu_dot(static_cast<const T*>(f.p) + i, c, s.second + j, c, c); });
  each([&](int i, int j) {
    const double grad =
        i > j ? plu_dot(s.first + i * c, 1, s.right + j * c, 1, c) : plu_dot(s.left + i, c, s.first + j, c, c);
    static_cast<T*>(params.grad_lower)[i * c + j] = i > j ? static_cast<T>(grad) : T(0);
    static_cast<T*>(params.grad_upper)[i * c + j] = i < j ? static_cast<T>(grad) : T(0);
    if (i == j) static_cast<T*>(params.grad_log_s)[i] = static_cast<T>(grad * s.right[i * c + i]);
  });
}

}  // namespace ivan_fast
