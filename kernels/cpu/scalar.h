// Single values of the types in memory. Everything is static here and in vec*.h: each unit has its own copy, compiled
// for its own instructions, never shared by the linker.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#define SMT_INLINE static inline __attribute__((always_inline))

namespace smt::cpu {
namespace {

// A type of its own, so that overloads tell it from fp16 and from integers.
struct bf16 {
  uint16_t bits;
};

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

}  // namespace
}  // namespace smt::cpu
