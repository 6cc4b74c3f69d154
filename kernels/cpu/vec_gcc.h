// Vectors of 16 floats in GCC's vector extension, lowered to what the translation unit is compiled for: one register
// with AVX-512; without any vector instructions of x86 (portable code), whatever the compiler makes of them.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "scalar.h"

namespace smt::cpu {
namespace {

using v16f = float __attribute__((vector_size(64)));
using v16i = int32_t __attribute__((vector_size(64)));
using v16u = uint32_t __attribute__((vector_size(64)));
using v16h = uint16_t __attribute__((vector_size(32)));
using v16s8 = int8_t __attribute__((vector_size(16)));

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

// Sixteen halves, or bytes, of a table row.
SMT_INLINE v16f load_half(const std::byte* p) {
#if defined(__AVX512F__)
  __m256i half;
  std::memcpy(&half, p, sizeof half);
  return (v16f)_mm512_cvtph_ps(half);
#else
  v16f values;
  for (int i = 0; i < 16; ++i) {
    uint16_t half;
    std::memcpy(&half, p + 2 * i, sizeof half);
    values[i] = half_to_float(half);
  }
  return values;
#endif
}
SMT_INLINE v16f load_int8(const std::byte* p) {
  v16s8 bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(bytes, v16f);
}
SMT_INLINE v16f to_float(v16i v) { return __builtin_convertvector(v, v16f); }

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

// magnitude where sign >= 0, -magnitude elsewhere.
SMT_INLINE v16f with_sign(v16f magnitude, v16f sign) { return sign < 0.0F ? -magnitude : magnitude; }

// p · 2^n for whole numbers n, |p| in [1/2, 2), and n such that the result is a normal float.
SMT_INLINE v16f times_power(v16f p, v16f n) {
  v16i exponent = __builtin_convertvector(n, v16i) << 23;
  return (v16f)((v16i)p + exponent);
}

}  // namespace
}  // namespace smt::cpu
