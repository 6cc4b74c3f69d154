// Vectors of 16 floats in GCC's vector extension: one source for every instruction set, lowered to what the translation
// unit is compiled for. Everything is static: each unit has its own copy, never shared by the linker.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "program.h"

#define SMT_INLINE static inline __attribute__((always_inline))

namespace smt::cpu {
namespace {

using v16f = float __attribute__((vector_size(64)));
using v16i = int32_t __attribute__((vector_size(64)));
using v16u = uint32_t __attribute__((vector_size(64)));
using v16h = uint16_t __attribute__((vector_size(32)));
using v16s8 = int8_t __attribute__((vector_size(16)));

// A type of its own, so that overloads tell it from fp16 and from integers.
struct bf16 {
  uint16_t bits;
};

SMT_INLINE v16f splat(float x) { return x - v16f{}; }

SMT_INLINE v16f load(const float* p) {
  v16f v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
SMT_INLINE v16i load(const int32_t* p) {
  v16i v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
SMT_INLINE v16u load(const uint32_t* p) {
  v16u v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
SMT_INLINE v16f load(const bf16* p) {
#if defined(__AVX512F__)
  // GCC 12 makes six instructions of the conversion below.
  __m256i half;
  std::memcpy(&half, p, sizeof half);
  return (v16f)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
#else
  v16h half;
  std::memcpy(&half, p, sizeof half);
  return (v16f)(__builtin_convertvector(half, v16u) << 16);
#endif
}

SMT_INLINE void store(float* p, v16f v) { std::memcpy(p, &v, sizeof v); }
SMT_INLINE void store(int32_t* p, v16i v) { std::memcpy(p, &v, sizeof v); }
// Rounds to nearest, ties to even. Infinities stay; values are never NaN where weights and features are finite.
SMT_INLINE void store(bf16* p, v16f v) {
#if defined(__AVX512BF16__)
  __m256bh half = _mm512_cvtneps_pbh((__m512)v);
  std::memcpy(p, &half, sizeof half);
#else
  v16u bits = (v16u)v;
  bits += 0x7fff + ((bits >> 16) & 1);
  v16h half = __builtin_convertvector(bits >> 16, v16h);
  std::memcpy(p, &half, sizeof half);
#endif
}

// Two neighbouring vectors, one cache line of bf16.
SMT_INLINE void store(float* p, v16f a, v16f b) {
  store(p, a);
  store(p + 16, b);
}
SMT_INLINE void store(bf16* p, v16f a, v16f b) {
#if defined(__AVX512BF16__)
  __m512bh both = _mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
  std::memcpy(p, &both, sizeof both);
#else
  store(p, a);
  store(p + 16, b);
#endif
}

SMT_INLINE void store_one(float* p, float value) { *p = value; }
SMT_INLINE void store_one(bf16* p, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  p->bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// IEEE half to float, subnormals included.
SMT_INLINE float half_to_float(uint16_t half) {
  uint32_t sign = uint32_t{half & 0x8000u} << 16;
  uint32_t magnitude = half & 0x7fffu;
  float value;
  if (magnitude >= 0x7c00) {  // infinity, NaN
    uint32_t bits = 0x7f800000u | (magnitude & 0x3ffu) << 13;
    std::memcpy(&value, &bits, sizeof value);
  } else {  // moving the exponent by a product makes subnormals right as well
    uint32_t bits = magnitude << 13;
    std::memcpy(&value, &bits, sizeof value);
    value *= 0x1p112F;
  }
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits |= sign;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

SMT_INLINE v16f vmax(v16f a, v16f b) { return a > b ? a : b; }
SMT_INLINE v16f vmin(v16f a, v16f b) { return a < b ? a : b; }

// Halves by halves: combine(x, y) of all lanes.
template <class Combine>
SMT_INLINE float reduce(v16f v, Combine&& combine) {
  using v8f = float __attribute__((vector_size(32)));
  using v4f = float __attribute__((vector_size(16)));
  v8f halves[2];
  std::memcpy(halves, &v, sizeof v);
  v8f eight = combine(halves[0], halves[1]);
  v4f quarters[2];
  std::memcpy(quarters, &eight, sizeof eight);
  v4f four = combine(quarters[0], quarters[1]);
  four = combine(four, __builtin_shuffle(four, (int __attribute__((vector_size(16)))){2, 3, 0, 1}));
  four = combine(four, __builtin_shuffle(four, (int __attribute__((vector_size(16)))){1, 0, 3, 2}));
  return four[0];
}

SMT_INLINE float sum(v16f v) {
  return reduce(v, [](auto a, auto b) { return a + b; });
}
SMT_INLINE float largest(v16f v) {
  return reduce(v, [](auto a, auto b) { return a > b ? a : b; });
}

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
  v16i exponent = __builtin_convertvector(n, v16i) << 23;
  return (v16f)((v16i)p + exponent);
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
  v16f value = 1.0F - p * t * exp(-magnitude * magnitude);
  return x < 0.0F ? -value : value;
}

template <Activation A>
SMT_INLINE v16f activate(v16f x) {
  if constexpr (A == Activation::kRelu) return vmax(x, v16f{});
  if constexpr (A == Activation::kGelu) return 0.5F * x * (1.0F + erf(x * 0.70710678F));
  return x * sigmoid(x);
}

}  // namespace
}  // namespace smt::cpu
