// Multiplication of a tile of activations with one panel (32 or 16 columns) of packed weights, per precision. Compiled
// once per instruction set; which path a unit gets is decided by what it is compiled for.
//
// A policy gives: Act, the type of activations in memory; Operand, what multiplies (made once per matrix by operand());
// panel(): c[rows, 32] = operand · panel (`stream`: the program's weights exceed the caches, fetch ahead); value(): an
// accumulator vector as floats, without bias; quantised_bytes(): what operand() writes for a row of k activations,
// beside its scale.
#pragma once

#if defined(__AVX2__) && !defined(__AVX512F__)
#include "gemm_avx2.h"
#else
#include "amx.h"
#include "blocks.h"

namespace smt::cpu {
namespace {

// Calls function<M, N>(arguments...) for m rows and n vectors of columns.
template <template <int, int> class Function, int M = kBlockRows, class... Arguments>
SMT_INLINE void with_shape(int64_t m, int64_t n, Arguments... arguments) {
  if constexpr (M > 0) {
    if (m != M) return with_shape<Function, M - 1>(m, n, arguments...);
    if (n == 2) return Function<M, 2>::run(arguments...);
    return Function<M, 1>::run(arguments...);
  }
}

// Accumulators of few rows wait for each other's latency: more sets, each for every U-th step of k. Blocks of more than
// 5 rows have one: no part of a call with 6 rows or more is cut into lower ones, so a row's sums are the same to the
// bit however many threads share the call and whatever rows surround it.
template <int M, int N>
constexpr int kSets = kBlockRows<12 ? 1 : M> 5 ? 1
                      : M* N <= 2              ? 4
                      : M* N <= 6              ? 2
                                               : 1;

// The packed k of a panel reaches to a multiple of S in zeros, and so does the activations' own: no block has a tail,
// and its sums stay in registers from the first step to the last.
template <int S>
constexpr int64_t whole_sets(int64_t steps) {
  return (steps + S - 1) / S * S;
}

template <int M, int N>
struct Fp32Block {
  static __attribute__((noinline)) void run(const float* a, int64_t lda, const float* b, int64_t k, float* c) {
    constexpr int S = kSets<M, N>;
    v16f sums[S][M][N] = {};
    for (int64_t i = 0; i < whole_sets<S>(k); i += S, b += S * N * 16) {
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) {
        v16f w[N];
        for (int n = 0; n < N; ++n) w[n] = load(b + (s * N + n) * 16);
#pragma GCC unroll 12
        for (int m = 0; m < M; ++m) {
          v16f x = splat(a[m * lda + i + s]);
          for (int n = 0; n < N; ++n) sums[s][m][n] += x * w[n];
        }
      }
    }
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      for (int n = 0; n < N; ++n) {
        v16f total = sums[0][m][n];
#pragma GCC unroll 4
        for (int s = 1; s < S; ++s) total += sums[s][m][n];
        store(c + m * kPanel + n * 16, total);
      }
    }
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
    for_row_blocks(rows, [&](int64_t first, int64_t count) {
      with_shape<Fp32Block>(count, vectors, x.a + first * x.lda, x.lda, reinterpret_cast<const float*>(weights), k,
                            c + first * kPanel);
    });
  }
  SMT_INLINE v16f value(const Operand&, int64_t, const float* c, v16f, v16i) { return load(c); }
};

#if defined(SMT_AMX)

struct Bf16 {
  static constexpr Weights16 kWeights16 = Weights16::kBf16;
  using Act = bf16;
  SMT_INLINE int64_t quantised_bytes(int64_t) { return 0; }
  struct Operand {
    const bf16* a;
    int64_t lda;
  };
  SMT_INLINE Operand operand(const Act* a, int64_t lda, int64_t, int64_t, float, std::byte*) { return {a, lda}; }
  SMT_INLINE void panel(const Operand& x, int64_t rows, const std::byte* weights, int64_t k, int64_t vectors, float* c,
                        [[maybe_unused]] bool stream) {
    amx_panel<AmxBf16>(reinterpret_cast<const std::byte*>(x.a), x.lda * 2, rows, weights, (k + 31) / 32, vectors, c);
  }
  SMT_INLINE v16f value(const Operand&, int64_t, const float* c, v16f, v16i) { return load(c); }
};

#elif defined(__AVX512BF16__)

template <int M, int N>
struct Bf16Block {
  static __attribute__((noinline)) void run(const bf16* a, int64_t lda, const std::byte* b, int64_t pairs, float* c,
                                            bool go_on, Stream stream) {
    constexpr int S = kSets<M, N>;
    __m512 sums[S][M][N];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
#pragma GCC unroll 12
      for (int m = 0; m < M; ++m) {
        for (int n = 0; n < N; ++n) {
          // A load by mask: a branch here would keep the sums in memory.
          __mmask16 mask = s == 0 && go_on ? 0xffff : 0;
          sums[s][m][n] = _mm512_maskz_loadu_ps(mask, c + m * kPanel + n * 16);
        }
      }
    }
    for (int64_t left = whole_sets<S>(pairs); left > 0; left -= 16, b += (N - 1) * 1024) {
      stream.fetch();
      for (const std::byte* end = b + (left < 16 ? left : 16) * 64; b != end; a += 2 * S, b += S * 64) {
#pragma GCC unroll 4
        for (int s = 0; s < S; ++s) {
          __m512bh w[N];
          for (int n = 0; n < N; ++n) w[n] = (__m512bh)_mm512_loadu_si512(b + n * 1024 + s * 64);
#pragma GCC unroll 12
          for (int m = 0; m < M; ++m) {
            int32_t pair;
            std::memcpy(&pair, a + m * lda + 2 * s, sizeof pair);
            __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
            for (int n = 0; n < N; ++n) sums[s][m][n] = _mm512_dpbf16_ps(sums[s][m][n], w[n], x);
          }
        }
      }
    }
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      for (int n = 0; n < N; ++n) {
        __m512 total = sums[0][m][n];
#pragma GCC unroll 4
        for (int s = 1; s < S; ++s) total = _mm512_add_ps(total, sums[s][m][n]);
        _mm512_storeu_ps(c + m * kPanel + n * 16, total);
      }
    }
  }
};

struct Bf16 {
  static constexpr Weights16 kWeights16 = Weights16::kBf16;
  using Act = bf16;
  SMT_INLINE int64_t quantised_bytes(int64_t) { return 0; }
  struct Operand {
    const bf16* a;
    int64_t lda;
  };
  SMT_INLINE Operand operand(const Act* a, int64_t lda, int64_t, int64_t, float, std::byte*) { return {a, lda}; }
  SMT_INLINE void panel(const Operand& x, int64_t rows, const std::byte* weights, int64_t k, int64_t vectors, float* c,
                        [[maybe_unused]] bool stream) {
    for_blocks(rows, (k + 1) / 2, vectors, weights, stream,
               [&](int64_t first, int64_t height, int64_t step, int64_t steps, bool go_on, Stream ahead) {
                 with_shape<Bf16Block>(height, vectors, x.a + first * x.lda + 2 * step, x.lda,
                                       weights + step * vectors * 64, steps, c + first * kPanel, go_on, ahead);
               });
  }
  SMT_INLINE v16f value(const Operand&, int64_t, const float* c, v16f, v16i) { return load(c); }
};

#else

// Without bf16 arithmetic: activations stay float, weights are widened as they are read.
template <int M, int N>
struct WidenedBlock {
  static __attribute__((noinline)) void run(const float* a, int64_t lda, const std::byte* b, int64_t k, float* c) {
    v16f sums[M][N] = {};
    for (int64_t i = 0; i < k; i += 2) {
      const std::byte* pair = b + i / 32 * (N * 1024) + i % 32 * 32;
      for (int n = 0; n < N; ++n) {
        v16u w = load(reinterpret_cast<const uint32_t*>(pair + n * 1024));
        v16f even = (v16f)(w << 16);
        v16f odd = (v16f)(w & 0xffff0000U);
        for (int m = 0; m < M; ++m) {
          sums[m][n] += a[m * lda + i] * even;
          sums[m][n] += a[m * lda + i + 1] * odd;  // behind the last column there is a zero
        }
      }
    }
    for (int m = 0; m < M; ++m) {
      for (int n = 0; n < N; ++n) store(c + m * kPanel + n * 16, sums[m][n]);
    }
  }
};

struct Bf16 {
  static constexpr Weights16 kWeights16 = Weights16::kBf16;
  using Act = float;
  SMT_INLINE int64_t quantised_bytes(int64_t) { return 0; }
  struct Operand {
    const float* a;
    int64_t lda;
  };
  SMT_INLINE Operand operand(const Act* a, int64_t lda, int64_t, int64_t, float, std::byte*) { return {a, lda}; }
  SMT_INLINE void panel(const Operand& x, int64_t rows, const std::byte* weights, int64_t k, int64_t vectors, float* c,
                        [[maybe_unused]] bool stream) {
    for_row_blocks(rows, [&](int64_t first, int64_t count) {
      with_shape<WidenedBlock>(count, vectors, x.a + first * x.lda, x.lda, weights, k, c + first * kPanel);
    });
  }
  SMT_INLINE v16f value(const Operand&, int64_t, const float* c, v16f, v16i) { return load(c); }
};

#endif

// Unsigned activations (zero at 128) times signed weights, four products to a 32-bit sum.
template <int M, int N>
struct Int8Block {
  SMT_INLINE v16i quadruples(v16i sum, const uint8_t* a, v16i w) {
#if defined(__AVX512VNNI__)
    int32_t four;
    std::memcpy(&four, a, sizeof four);
    return (v16i)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(four), (__m512i)w);
#else
    for (int i = 0; i < 4; ++i) sum += int32_t{a[i]} * (v16i)((w << (24 - 8 * i)) >> 24);
    return sum;
#endif
  }
  static __attribute__((noinline)) void run(const uint8_t* a, int64_t lda, const std::byte* b, int64_t quads, float* c,
                                            bool go_on, Stream stream) {
    constexpr int S = kSets<M, N>;
    v16i sums[S][M][N];
    v16i before = v16i{} - (go_on ? 1 : 0);  // a mask: a branch here would keep the sums in memory
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
#pragma GCC unroll 12
      for (int m = 0; m < M; ++m) {
        for (int n = 0; n < N; ++n) {
          v16i last;
          std::memcpy(&last, c + m * kPanel + n * 16, sizeof last);
          sums[s][m][n] = s == 0 ? last & before : v16i{};
        }
      }
    }
    for (int64_t left = whole_sets<S>(quads); left > 0; left -= 16, b += (N - 1) * 1024) {
      stream.fetch();
      for (const std::byte* end = b + (left < 16 ? left : 16) * 64; b != end; a += 4 * S, b += S * 64) {
#pragma GCC unroll 4
        for (int s = 0; s < S; ++s) {
          v16i w[N];
          for (int n = 0; n < N; ++n) w[n] = load(reinterpret_cast<const int32_t*>(b + n * 1024 + s * 64));
#pragma GCC unroll 12
          for (int m = 0; m < M; ++m) {
            for (int n = 0; n < N; ++n) sums[s][m][n] = quadruples(sums[s][m][n], a + m * lda + 4 * s, w[n]);
          }
        }
      }
    }
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      for (int n = 0; n < N; ++n) {
        v16i total = sums[0][m][n];
#pragma GCC unroll 4
        for (int s = 1; s < S; ++s) total += sums[s][m][n];
        std::memcpy(c + m * kPanel + n * 16, &total, sizeof total);
      }
    }
  }
};

struct Int8 {
  using Act = Bf16::Act;
  SMT_INLINE int64_t quantised_bytes(int64_t k) { return (k + 63) / 64 * 64; }
  struct Operand {
    const uint8_t* a;
    int64_t lda;
    const float* scales;  // [rows]: what a step of the quantised activation is worth
  };

  // Quantises each row by its own largest magnitude. `memory`: rows floats (rounded up to 64 bytes), then the bytes.
  static __attribute__((noinline)) Operand operand(const Act* a, int64_t lda, int64_t rows, int64_t k, float,
                                                   std::byte* memory) {
    float* scales = reinterpret_cast<float*>(memory);
    auto* bytes = reinterpret_cast<uint8_t*>(memory + (rows * 4 + 63) / 64 * 64);
    int64_t stride = quantised_bytes(k);
    int64_t k16 = (k + 15) / 16 * 16;  // columns from k on are zero
    for (int64_t r = 0; r < rows; ++r) {
      v16f peak{};
      for (int64_t i = 0; i < k16; i += 16) {
        v16f x = load(a + r * lda + i);
        peak = vmax(peak, vmax(x, -x));
      }
      float magnitude = largest(peak);
      scales[r] = magnitude / 127.0F;
      float inverse = magnitude > 0 ? 127.0F / magnitude : 0.0F;
      for (int64_t i = 0; i < k16; i += 16) {
        v16f scaled =
            load(a + r * lda + i) * inverse + 12583040.0F;  // 1.5 * 2^23 + 128: rounds; the low byte is the value
        v16u bits = (v16u)scaled & 0xffU;
        using v16b = uint8_t __attribute__((vector_size(16)));
        v16b low = __builtin_convertvector(bits, v16b);
        std::memcpy(bytes + r * stride + i, &low, sizeof low);
      }
    }
    return {bytes, stride, scales};
  }
  SMT_INLINE void panel(const Operand& x, int64_t rows, const std::byte* weights, int64_t k, int64_t vectors, float* c,
                        [[maybe_unused]] bool stream) {
#if defined(SMT_AMX)
    amx_panel<AmxInt8>(reinterpret_cast<const std::byte*>(x.a), x.lda, rows, weights, (k + 63) / 64, vectors, c);
#else
    for_blocks(rows, (k + 3) / 4, vectors, weights, stream,
               [&](int64_t first, int64_t height, int64_t step, int64_t steps, bool go_on, Stream ahead) {
                 with_shape<Int8Block>(height, vectors, x.a + first * x.lda + 4 * step, x.lda,
                                       weights + step * vectors * 64, steps, c + first * kPanel, go_on, ahead);
               });
#endif
  }
  SMT_INLINE v16f value(const Operand& x, int64_t row, const float* c, v16f scale, v16i shift) {
    v16i sums;
    std::memcpy(&sums, c, sizeof sums);
    return to_float(sums - shift) * (scale * x.scales[row]);
  }
};

}  // namespace
}  // namespace smt::cpu
#endif
