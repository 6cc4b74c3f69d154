// The policies of gemm.h for AVX2: blocks of at most 6 rows × 16 columns, whose 12 accumulators leave four registers.
//
// Few rows leave the units waiting for each other's results. Calls of less than 6 rows therefore have more sets of
// accumulators, each for every S-th step of k; all others have one, so that a row's sums are the same to the bit
// however many threads share the call and whatever rows surround it.
#pragma once

#include "blocks.h"
#include "vec.h"

namespace smt::cpu {
namespace {

// Calls function<M, S>(arguments...) for m rows of a call that is cut into blocks (`several`), or that is one.
template <template <int, int> class Function, int M = kBlockRows, class... Arguments>
SMT_INLINE void with_height(int64_t m, bool several, Arguments... arguments) {
  if constexpr (M > 0) {
    if (m != M) return with_height<Function, M - 1>(m, several, arguments...);
    constexpr int kSets = M == 1 ? 4 : M <= 3 ? 2 : 1;
    if (several) return Function<M, 1>::run(arguments...);
    return Function<M, kSets>::run(arguments...);
  }
}

// Sums of M rows × 16 columns in registers.
template <int M, int S>
struct Sums {
  __m256 at[S][M][2];
};

template <int M, int S>
SMT_INLINE Sums<M, S> begin_sums() {
  Sums<M, S> sums;
#pragma GCC unroll 4
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) {
      for (int h = 0; h < 2; ++h) sums.at[s][m][h] = _mm256_setzero_ps();
    }
  }
  return sums;
}

template <int M, int S>
SMT_INLINE void end_sums(const Sums<M, S>& sums, float* c) {
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m) {
    for (int h = 0; h < 2; ++h) {
      __m256 total = sums.at[0][m][h];
#pragma GCC unroll 4
      for (int s = 1; s < S; ++s) total = _mm256_add_ps(total, sums.at[s][m][h]);
      _mm256_storeu_ps(c + m * kPanel + h * 8, total);
    }
  }
}

template <int M, int S>
struct Fp32Block {
  static __attribute__((noinline)) void run(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t k,
                                            float* c) {
    auto sums = begin_sums<M, S>();
    for (int64_t i = 0; i < (k + S - 1) / S * S; i += S, a += S) {
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s, b += ldb) {
        __m256 low = _mm256_loadu_ps(b), high = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
        for (int m = 0; m < M; ++m) {
          __m256 x = _mm256_broadcast_ss(a + m * lda + s);
          sums.at[s][m][0] = _mm256_fmadd_ps(x, low, sums.at[s][m][0]);
          sums.at[s][m][1] = _mm256_fmadd_ps(x, high, sums.at[s][m][1]);
        }
      }
    }
    end_sums(sums, c);
  }
};

struct Fp32 {
  using Act = float;
  SMT_INLINE int64_t quantised_bytes(int64_t) { return 0; }
  struct Operand {
    const float* a;
    int64_t lda;
  };
  SMT_INLINE Operand operand(const Act* a, int64_t lda, int64_t, int64_t, float, std::byte*) { return {a, lda}; }
  SMT_INLINE void panel(const Operand& x, int64_t rows, const std::byte* weights, int64_t k, int64_t vectors, float* c,
                        [[maybe_unused]] bool stream) {
    for (int64_t n = 0; n < vectors; ++n) {
      for_row_blocks(rows, [&](int64_t first, int64_t count) {
        with_height<Fp32Block>(count, rows >= kBlockRows, x.a + first * x.lda, x.lda,
                               reinterpret_cast<const float*>(weights) + n * kLanes, vectors * kLanes, k,
                               c + first * kPanel + n * kLanes);
      });
    }
  }
  SMT_INLINE v16f value(const Operand&, int64_t, const float* c, v16f, v16i) { return load(c); }
};

// Weights of 16 columns: lines of 64 bytes, 16 to a block, the blocks of the panel's vectors in turn.
struct Lines {
  const std::byte* at;
  int64_t skip;  // bytes from the end of a block to the vector's next
};

// Calls line(pointer to 64 bytes, set) for `count` lines, asking for later ones meanwhile.
template <int S, class Line>
SMT_INLINE void for_lines(Lines lines, int64_t count, Stream stream, Line&& line) {
  const std::byte* b = lines.at;
  for (int64_t left = (count + S - 1) / S * S; left > 0; left -= 16, b += lines.skip) {
    stream.fetch();
    for (const std::byte* end = b + (left < 16 ? left : 16) * 64; b != end; b += S * 64) line(b);
  }
}

// Sums of M rows × 16 columns of 32-bit integers.
template <int M, int S>
struct IntegerSums {
  __m256i at[S][M][2];

  SMT_INLINE IntegerSums begin(const float* c, bool go_on) {
    IntegerSums sums;
    // A load by mask: a branch here would keep the sums in memory.
    __m256i mask = _mm256_set1_epi32(go_on ? -1 : 0);
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
#pragma GCC unroll 6
      for (int m = 0; m < M; ++m) {
        for (int h = 0; h < 2; ++h) {
          sums.at[s][m][h] = s == 0 ? _mm256_maskload_epi32(reinterpret_cast<const int*>(c + m * kPanel + h * 8), mask)
                                    : _mm256_setzero_si256();
        }
      }
    }
    return sums;
  }
  SMT_INLINE void end(const IntegerSums& sums, float* c) {
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) {
      for (int h = 0; h < 2; ++h) {
        __m256i total = sums.at[0][m][h];
#pragma GCC unroll 4
        for (int s = 1; s < S; ++s) total = _mm256_add_epi32(total, sums.at[s][m][h]);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(c + m * kPanel + h * 8), total);
      }
    }
  }
  // Set s: the M rows' a[0..1], one every lda, times the columns' pairs of weights.
  SMT_INLINE void add_products(IntegerSums& sums, int s, const int16_t* a, int64_t lda, __m256i low, __m256i high) {
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) add_row(sums.at[s][m], a + m * lda, low, high);
  }

 private:
  // Left to itself, the compiler computes many products before it adds the first, and keeps them and the sums in
  // memory. Both products come before both sums: sums that take a pipe of the multiplier hold the next product up.
  SMT_INLINE void add_row(__m256i (&sums)[2], const int16_t* a, __m256i low, __m256i high) {
    using Pair [[gnu::may_alias]] = int32_t;
    __m256i first = sums[0], second = sums[1], x, product;
    asm("vpbroadcastd %[a], %[x]\n\t"
        "vpmaddwd %[low], %[x], %[product]\n\t"
        "vpmaddwd %[high], %[x], %[x]\n\t"
        "vpaddd %[product], %[first], %[first]\n\t"
        "vpaddd %[x], %[second], %[second]"
        : [first] "+x"(first), [second] "+x"(second), [x] "=&x"(x), [product] "=&x"(product)
        : [a] "m"(*reinterpret_cast<const Pair*>(a)), [low] "x"(low), [high] "x"(high));
    sums[0] = first;
    sums[1] = second;
  }
};

// A line of a bf16 program's weights (Weights16::kIntegers): two k of 16 columns.
template <int M, int S>
struct Int16Block {
  static __attribute__((noinline)) void run(const int16_t* a, int64_t lda, Lines lines, int64_t pairs, float* c,
                                            bool go_on, Stream stream) {
    using Sums = IntegerSums<M, S>;
    Sums sums = Sums::begin(c, go_on);
    for_lines<S>(lines, pairs, stream, [&](const std::byte* b) {
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s, a += 2) {
        const auto* line = reinterpret_cast<const __m256i*>(b + s * 64);
        Sums::add_products(sums, s, a, lda, _mm256_loadu_si256(line), _mm256_loadu_si256(line + 1));
      }
    });
    Sums::end(sums, c);
  }
};

// A line of int8 weights: four k of 16 columns, a 32-bit lane each: bytes 0 and 2 are taken with the activations 0 and
// 2, bytes 1 and 3 with 1 and 3. Activations are stored in that order.
template <int M, int S>
struct Int8Block {
  static __attribute__((noinline)) void run(const int16_t* a, int64_t lda, Lines lines, int64_t quads, float* c,
                                            bool go_on, Stream stream) {
    using Sums = IntegerSums<M, S>;
    Sums sums = Sums::begin(c, go_on);
    for_lines<S>(lines, quads, stream, [&](const std::byte* b) {
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s, a += 4) {
        const auto* line = reinterpret_cast<const __m256i*>(b + s * 64);
        __m256i low = _mm256_srai_epi16(_mm256_slli_epi16(_mm256_loadu_si256(line), 8), 8);
        __m256i high = _mm256_srai_epi16(_mm256_slli_epi16(_mm256_loadu_si256(line + 1), 8), 8);
        Sums::add_products(sums, s, a, lda, low, high);
        low = _mm256_srai_epi16(_mm256_loadu_si256(line), 8);
        high = _mm256_srai_epi16(_mm256_loadu_si256(line + 1), 8);
        Sums::add_products(sums, s, a + 2, lda, low, high);
      }
    });
    Sums::end(sums, c);
  }
};

// Products of 16-bit integers: vpmaddwd adds two of them exactly, and vpaddd their sums, also exactly. On Zen 3 the two
// together do twice as many products a cycle as vfmadd. (vpmaddubsw multiplies bytes, but its sums of two saturate; and
// as it needs a second instruction to widen them, it is little faster.)
//
// Activations are quantised row by row, by the row's largest magnitude, to as many levels as no sum of products
// overflows with.
template <int Unit, template <int, int> class Block>
struct Integers {
  using Act = float;
  // Values from one row to the next. A block reads its rows side by side; a multiple of 1 KiB apart they fall into the
  // same few sets of the first-level cache, which made products of 512 columns 15 % slower, and of 1024 40 %.
  SMT_INLINE int64_t quantised_stride(int64_t k) {
    int64_t stride = (k + 63) / 64 * 64;
    return stride % 512 == 0 ? stride + 32 : stride;
  }
  SMT_INLINE int64_t quantised_bytes(int64_t k) { return 2 * quantised_stride(k); }
  struct Operand {
    const int16_t* a;
    int64_t lda;
    const float* scales;  // [rows]: what a step of the quantised activation is worth
  };

  SMT_INLINE void panel(const Operand& x, int64_t rows, const std::byte* weights, int64_t k, int64_t vectors, float* c,
                        bool stream) {
    for (int64_t n = 0; n < vectors; ++n) {
      for_blocks(rows, (k + Unit - 1) / Unit, vectors, weights, stream && n == 0,
                 [&](int64_t first, int64_t height, int64_t step, int64_t steps, bool go_on, Stream ahead) {
                   Lines lines{weights + step * vectors * 64 + n * 1024, (vectors - 1) * 1024};
                   with_height<Block>(height, rows >= kBlockRows, x.a + first * x.lda + Unit * step, x.lda, lines,
                                      steps, c + first * kPanel + n * kLanes, go_on, ahead);
                 });
    }
  }
  // Activations have no offset here, so the columns' shifts are not needed.
  SMT_INLINE v16f value(const Operand& x, int64_t row, const float* c, v16f scale, v16i) {
    return to_float(load(reinterpret_cast<const int32_t*>(c))) * (scale * x.scales[row]);
  }

 protected:
  // `memory`: rows floats (rounded up to 64 bytes), then the values.
  static __attribute__((noinline)) Operand quantise(const Act* a, int64_t lda, int64_t rows, int64_t k, float levels,
                                                    std::byte* memory) {
    float* scales = reinterpret_cast<float*>(memory);
    auto* values = reinterpret_cast<int16_t*>(memory + (rows * 4 + 63) / 64 * 64);
    int64_t stride = quantised_stride(k);
    int64_t k16 = (k + 15) / 16 * 16;  // columns from k on are zero
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = a + r * lda;
      v16f peak{};
      for (int64_t i = 0; i < k16; i += 16) {
        v16f x = load(row + i);
        peak = vmax(peak, vmax(x, -x));
      }
      float magnitude = largest(peak);
      scales[r] = magnitude / levels;
      float inverse = magnitude > 0 ? levels / magnitude : 0.0F;
      for (int64_t i = 0; i < k16; i += 16) {
        v16f scaled = load(row + i) * inverse;
        // Packed within 128-bit halves: 0-3 8-11, 4-7 12-15; put in order as 64-bit groups.
        __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(scaled.low), _mm256_cvtps_epi32(scaled.high));
        packed = _mm256_permute4x64_epi64(packed, 0xd8);
        // Each group as 0 2 1 3, see Int8Block.
        if constexpr (Unit == 4) packed = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(packed, 0xd8), 0xd8);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(values + r * stride + i), packed);
      }
    }
    return {values, stride, scales};
  }
};

// A bf16 program: weights of 16 bits, and activations whose levels packing has found.
struct Bf16 : Integers<2, Int16Block> {
  static constexpr Weights16 kWeights16 = Weights16::kIntegers;
  SMT_INLINE Operand operand(const Act* a, int64_t lda, int64_t rows, int64_t k, float levels, std::byte* memory) {
    return quantise(a, lda, rows, k, levels, memory);
  }
};

struct Int8 : Integers<4, Int8Block> {
  SMT_INLINE Operand operand(const Act* a, int64_t lda, int64_t rows, int64_t k, float, std::byte* memory) {
    return quantise(a, lda, rows, k, largest_activation(k), memory);
  }

 private:
  // The sum of k products with weights of at most 127 has 32 bits.
  SMT_INLINE float largest_activation(int64_t k) {
    int64_t most = INT32_MAX / (127 * (k > 0 ? k : 1));
    return static_cast<float>(most < 4095 ? most : 4095);
  }
};

}  // namespace
}  // namespace smt::cpu
