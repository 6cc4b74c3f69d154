// Vectors of 16 floats as two registers of AVX2. GCC's vector extension would do, but it lowers what is wider than the
// registers through memory, and comparisons value by value: a hundred times slower.
#pragma once

#include <immintrin.h>

#include "scalar.h"

namespace smt::cpu {
namespace {

struct v16f {
  __m256 low, high;
};
struct v16i {
  __m256i low, high;
};

SMT_INLINE v16f splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }

#define SMT_OPERATOR(op, instruction)                                                                              \
  SMT_INLINE v16f operator op(v16f a, v16f b) { return {instruction(a.low, b.low), instruction(a.high, b.high)}; } \
  SMT_INLINE v16f operator op(v16f a, float b) { return a op splat(b); }                                           \
  SMT_INLINE v16f operator op(float a, v16f b) { return splat(a) op b; }
SMT_OPERATOR(+, _mm256_add_ps)
SMT_OPERATOR(-, _mm256_sub_ps)
SMT_OPERATOR(*, _mm256_mul_ps)
SMT_OPERATOR(/, _mm256_div_ps)
#undef SMT_OPERATOR
SMT_INLINE v16f operator-(v16f a) {
  __m256 sign = _mm256_set1_ps(-0.0F);
  return {_mm256_xor_ps(a.low, sign), _mm256_xor_ps(a.high, sign)};
}
SMT_INLINE v16f& operator+=(v16f& a, v16f b) { return a = a + b; }

SMT_INLINE v16f load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
SMT_INLINE v16i load(const int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
SMT_INLINE __m256 widen_bf16(const bf16* p) {
  __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
SMT_INLINE v16f load(const bf16* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }

SMT_INLINE void store(float* p, v16f v) {
  _mm256_storeu_ps(p, v.low);
  _mm256_storeu_ps(p + 8, v.high);
}
// Rounds to nearest, ties to even. Infinities stay; values are never NaN where weights and features are finite.
SMT_INLINE __m256i round_to_bf16(__m256 v) {
  __m256i bits = _mm256_castps_si256(v);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
}
SMT_INLINE void store(bf16* p, v16f v) {
  __m256i both = _mm256_packus_epi32(round_to_bf16(v.low), round_to_bf16(v.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(both, 0xd8));
}
template <class T>
SMT_INLINE void store(T* p, v16f a, v16f b) {
  store(p, a);
  store(p + 16, b);
}

// Sixteen halves, or bytes, of a table row.
SMT_INLINE v16f load_half(const std::byte* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16)))};
}
SMT_INLINE v16f load_int8(const std::byte* p) {
  __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
SMT_INLINE v16f to_float(v16i v) { return {_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)}; }

SMT_INLINE v16f vmax(v16f a, v16f b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
SMT_INLINE v16f vmin(v16f a, v16f b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }

// Halves by halves: combine(x, y) of all lanes.
template <class Combine>
SMT_INLINE float reduce(v16f v, Combine&& combine) {
  __m256 eight = combine(v.low, v.high);
  __m128 four = combine(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = combine(four, _mm_movehl_ps(four, four));
  four = combine(four, _mm_shuffle_ps(four, four, 1));
  return _mm_cvtss_f32(four);
}
SMT_INLINE float sum(v16f v) {
  return reduce(v, [](auto a, auto b) { return a + b; });
}
SMT_INLINE float largest(v16f v) {
  return reduce(v, [](auto a, auto b) { return a > b ? a : b; });
}

// magnitude where sign >= 0, -magnitude elsewhere.
SMT_INLINE v16f with_sign(v16f magnitude, v16f sign) {
  v16f zero{};
  __m256 bit = _mm256_set1_ps(-0.0F);
  auto one = [&](__m256 m, __m256 s, __m256 z) {
    return _mm256_xor_ps(m, _mm256_and_ps(_mm256_cmp_ps(s, z, _CMP_LT_OQ), bit));
  };
  return {one(magnitude.low, sign.low, zero.low), one(magnitude.high, sign.high, zero.high)};
}

// p · 2^n for whole numbers n, |p| in [1/2, 2), and n such that the result is a normal float.
SMT_INLINE v16f times_power(v16f p, v16f n) {
  auto one = [](__m256 value, __m256 power) {
    __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(power), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(value), exponent));
  };
  return {one(p.low, n.low), one(p.high, n.high)};
}

}  // namespace
}  // namespace smt::cpu
