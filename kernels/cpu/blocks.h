// How the rows and the depth of a product are cut into blocks whose sums stay in registers.
#pragma once

#include "vec.h"

namespace smt::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kBlockRows = 12;  // 12 rows × 2 vectors of accumulators, 2 of weights: 26 of 32 registers
#elif defined(__AVX2__)
constexpr int kBlockRows = 6;  // × 16 columns: 12 of 16 registers of 8 floats
#else
constexpr int kBlockRows = 1;
#endif

// Packed weights larger than this exceed second-level caches by far: they come from further away in every tile. CPUs
// without AVX-512 have caches of 256 to 512 KiB, and there it pays as soon as weights do not fit; where the larger ones
// of others hold most of them, asking for the rest costs more than it saves.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int64_t kNearBytes = int64_t{512} << 10;
#else
constexpr int64_t kNearBytes = kStreamedBytes;
#endif

// Row blocks of nearly equal height, at most `kBlockRows`: 16 rows are 8 + 8 and not 12 + 4, whose second block would
// wait for latencies.
template <class Block>
SMT_INLINE void for_row_blocks(int64_t rows, Block&& block) {
  int64_t count = (rows + kBlockRows - 1) / kBlockRows;
  for (int64_t i = 0; i < count; ++i) {
    int64_t first = rows * i / count;
    block(first, rows * (i + 1) / count - first);
  }
}

// What a block asks for ahead of time while it multiplies: `lines` cache lines at each 16 steps of k. All row blocks
// together fetch one panel's worth of what comes next, which memory cannot deliver as fast as it is used.
struct Stream {
  const std::byte* ahead;
  int64_t lines;

  void fetch() {
    for (int64_t i = 0; i < lines; ++i) __builtin_prefetch(ahead + i * 64, 0, 2);
    ahead += lines * 64;
  }
};

// Calls block(first row, rows, first step, steps, go on, stream) so that the weights of each chunk of k stay in half of
// a first-level cache while the row blocks pass over them. A step of k is `vectors` lines; one row block takes all at
// once.
template <class Block>
SMT_INLINE void for_blocks(int64_t rows, int64_t steps, int64_t vectors, const std::byte* weights, bool stream,
                           Block&& block) {
  constexpr int64_t kChunkLines = 512;
  int64_t most = rows <= kBlockRows ? steps : kChunkLines / vectors;
  int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  // As far ahead as memory takes to answer; short panels are used up before that.
  constexpr int64_t kAhead = 32 << 10;
  int64_t panel_bytes = (steps + 15) / 16 * 16 * vectors * 64;
  const std::byte* next = weights + (panel_bytes > kAhead ? panel_bytes : kAhead);
  for (int64_t step = 0; step < steps; step += most) {
    int64_t count = steps - step < most ? steps - step : most;
    int64_t lines = stream ? (16 * vectors + blocks - 1) / blocks : 0;
    const std::byte* ahead = next + step * vectors * 64;
    for_row_blocks(rows, [&](int64_t first, int64_t height) {
      block(first, height, step, count, step > 0, Stream{ahead, lines});
      ahead += (count + 15) / 16 * lines * 64;
    });
  }
}

}  // namespace
}  // namespace smt::cpu
