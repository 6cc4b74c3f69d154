// AMX tiles (Intel SDM, volume 1, chapter 18): two by two accumulators of 16 × 16, one step of 64 bytes of k at a time.
//
// SMT_AMX is defined where a unit uses tiles: with the instructions, or (SMT_EMULATE_AMX, tests only) with their
// pseudo-code in C++, so that packing, edges and indexing are tested on machines without AMX.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "program.h"

#if defined(SMT_EMULATE_AMX) || defined(__AMX_BF16__)
#define SMT_AMX 1
#endif

#if defined(SMT_AMX)

namespace smt::cpu {
namespace {

#if defined(SMT_EMULATE_AMX)

struct EmulatedTile {
  uint8_t bytes[16][64];
};
thread_local EmulatedTile g_tiles[8];

inline void tiles_configure() { std::memset(static_cast<void*>(g_tiles), 0xff, sizeof g_tiles); }
inline void tiles_release() {}
template <int T>
void tile_zero() {
  std::memset(static_cast<void*>(&g_tiles[T]), 0, sizeof g_tiles[T]);
}
template <int T>
void tile_load(const void* memory, int64_t stride) {
  for (int i = 0; i < 16; ++i) std::memcpy(g_tiles[T].bytes[i], static_cast<const std::byte*>(memory) + i * stride, 64);
}
template <int T>
void tile_store(void* memory, int64_t stride) {
  for (int i = 0; i < 16; ++i) std::memcpy(static_cast<std::byte*>(memory) + i * stride, g_tiles[T].bytes[i], 64);
}

inline float bf16_at(const uint8_t* bytes) {
  uint32_t bits = uint32_t{bytes[0]} << 16 | uint32_t{bytes[1]} << 24;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct AmxBf16 {
  template <int C, int A, int B>
  static void multiply() {
    for (int m = 0; m < 16; ++m) {
      for (int n = 0; n < 16; ++n) {
        float sum;
        std::memcpy(&sum, &g_tiles[C].bytes[m][4 * n], 4);
        for (int k = 0; k < 16; ++k) {
          for (int i = 0; i < 2; ++i) {
            sum += bf16_at(&g_tiles[A].bytes[m][4 * k + 2 * i]) * bf16_at(&g_tiles[B].bytes[k][4 * n + 2 * i]);
          }
        }
        std::memcpy(&g_tiles[C].bytes[m][4 * n], &sum, 4);
      }
    }
  }
};

struct AmxInt8 {
  template <int C, int A, int B>
  static void multiply() {
    for (int m = 0; m < 16; ++m) {
      for (int n = 0; n < 16; ++n) {
        int32_t sum;
        std::memcpy(&sum, &g_tiles[C].bytes[m][4 * n], 4);
        for (int k = 0; k < 16; ++k) {
          for (int i = 0; i < 4; ++i) {
            sum += int32_t{g_tiles[A].bytes[m][4 * k + i]} * static_cast<int8_t>(g_tiles[B].bytes[k][4 * n + i]);
          }
        }
        std::memcpy(&g_tiles[C].bytes[m][4 * n], &sum, 4);
      }
    }
  }
};

#else

// The assembler's own instructions: GCC 12's intrinsics take literal tile numbers only.
// Palette 1, all eight tiles of 16 rows of 64 bytes.
inline void tiles_configure() {
  struct alignas(64) Config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  __asm__ volatile("ldtilecfg %0" ::"m"(config));
}
inline void tiles_release() { __asm__ volatile("tilerelease" ::); }
template <int T>
inline void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
inline void tile_load(const void* memory, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(memory), "r"(stride), "i"(T) : "memory");
}
template <int T>
inline void tile_store(void* memory, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(memory), "r"(stride), "i"(T) : "memory");
}
struct AmxBf16 {
  template <int C, int A, int B>
  static void multiply() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};
struct AmxInt8 {
  template <int C, int A, int B>
  static void multiply() {
    __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};

#endif

// c[16 * M, 16 * N] (stride 32 floats) = a · b over `blocks` steps of 64 bytes of k. Tiles: 0-3 sums, 4-5 a, 6-7 b.
template <class Type, int M, int N>
inline void amx_block(const std::byte* a, int64_t row_bytes, const std::byte* b, int64_t blocks, float* c) {
  tile_zero<0>();
  if constexpr (N == 2) tile_zero<1>();
  if constexpr (M == 2) tile_zero<2>();
  if constexpr (M == 2 && N == 2) tile_zero<3>();
  for (int64_t k = 0; k < blocks; ++k, a += 64, b += N * 1024) {
    tile_load<6>(b, 64);
    tile_load<4>(a, row_bytes);
    Type::template multiply<0, 4, 6>();
    if constexpr (N == 2) {
      tile_load<7>(b + 1024, 64);
      Type::template multiply<1, 4, 7>();
    }
    if constexpr (M == 2) {
      tile_load<5>(a + 16 * row_bytes, row_bytes);
      Type::template multiply<2, 5, 6>();
      if constexpr (N == 2) Type::template multiply<3, 5, 7>();
    }
  }
  constexpr int64_t kStride = kPanel * 4;
  tile_store<0>(c, kStride);
  if constexpr (N == 2) tile_store<1>(c + 16, kStride);
  if constexpr (M == 2) tile_store<2>(c + 16 * kPanel, kStride);
  if constexpr (M == 2 && N == 2) tile_store<3>(c + 16 * kPanel + 16, kStride);
}

// All rows, in steps of 32; the last step computes up to 15 rows that nobody reads (the buffers have them).
template <class Type>
inline void amx_panel(const std::byte* a, int64_t row_bytes, int64_t rows, const std::byte* b, int64_t blocks,
                      int64_t vectors, float* c) {
  for (int64_t r = 0; r < rows; r += 32) {
    const std::byte* rows_a = a + r * row_bytes;
    float* rows_c = c + r * kPanel;
    if (rows - r > 16) {
      vectors == 2 ? amx_block<Type, 2, 2>(rows_a, row_bytes, b, blocks, rows_c)
                   : amx_block<Type, 2, 1>(rows_a, row_bytes, b, blocks, rows_c);
    } else {
      vectors == 2 ? amx_block<Type, 1, 2>(rows_a, row_bytes, b, blocks, rows_c)
                   : amx_block<Type, 1, 1>(rows_a, row_bytes, b, blocks, rows_c);
    }
  }
}

}  // namespace
}  // namespace smt::cpu

#endif
