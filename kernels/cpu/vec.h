// Vectors of 16 floats: the types and what instructions do with them (vec_avx2.h, vec_gcc.h), and functions made of
// that.
#pragma once

#include "program.h"
#if defined(__AVX2__) && !defined(__AVX512F__)
#include "vec_avx2.h"
#else
#include "vec_gcc.h"
#endif

namespace smt::cpu {
namespace {

// Relative error below 2e-7 over the range of normal floats; saturates outside. Cody-Waite reduction, degree-6
// polynomial.
SMT_INLINE v16f exp(v16f x) {
  x = vmin(vmax(x, splat(-87.33F)), splat(88.37F));
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding and subtracting it rounds to a whole number
  v16f n = (x * 1.44269504F + kRound) - kRound;
  v16f r = x - n * 0.693145752F;
  r = r - n * 1.42860677e-6F;
  v16f p = splat(1.38890656e-3F);
  p = p * r + 8.33336823e-3F;
  p = p * r + 4.16666418e-2F;
  p = p * r + 0.166666657F;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  return times_power(p, n);
}

SMT_INLINE v16f sigmoid(v16f x) { return 1.0F / (1.0F + exp(-x)); }

// Absolute error below 1.5e-7 (Abramowitz and Stegun, 7.1.26).
SMT_INLINE v16f erf(v16f x) {
  v16f magnitude = vmax(x, -x);
  v16f t = 1.0F / (1.0F + 0.3275911F * magnitude);
  v16f p = splat(1.061405429F);
  p = p * t - 1.453152027F;
  p = p * t + 1.421413741F;
  p = p * t - 0.284496736F;
  p = p * t + 0.254829592F;
  return with_sign(1.0F - p * t * exp(-magnitude * magnitude), x);
}

template <Activation A>
SMT_INLINE v16f activate(v16f x) {
  if constexpr (A == Activation::kRelu) return vmax(x, v16f{});
  if constexpr (A == Activation::kGelu) return 0.5F * x * (1.0F + erf(x * 0.70710678F));
  return x * sigmoid(x);
}

}  // namespace
}  // namespace smt::cpu
