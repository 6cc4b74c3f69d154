// `dot` on a tile: pairwise dot products of the feature vectors of a row (DLRM, arXiv 1906.00091; reference.py is the
// specification), behind the dense vector.
#pragma once

#include "../cpu/tile.h"

namespace smt::cpu {
namespace {

// in: [rows, vectors * dim]. out: [rows, (step.first ? dim : 0) + vectors (vectors - 1) / 2], the dense vector first.
template <class P>
void run_dot(const Tile<P>& t, const Step& step) {
  int64_t vectors = step.slots, dim = step.dim;
  int64_t lanes = (vectors + kLanes - 1) / kLanes * kLanes;
  float* transposed = t.floats(step.swap);  // [dim, lanes] and then the pairs, of one row at a time
  float* pairs = transposed + dim * lanes;
  for (int64_t r = 0; r < t.rows; ++r) {
    const float* x = t.floats(step.in) + r * t.stride(step.in);
    for (int64_t v = 0; v < vectors; ++v) {
      for (int64_t d = 0; d < dim; ++d) transposed[d * lanes + v] = x[v * dim + d];
    }
    int64_t at = 0;
    for (int64_t v = 1; v < vectors; at += v++) {
      // Pairs (v, 0 .. v-1); what a vector writes behind them, the next v overwrites.
      for (int64_t w = 0; w < v; w += kLanes) {
        v16f total{};
        for (int64_t d = 0; d < dim; ++d) {
          total += transposed[d * lanes + v] * load(transposed + d * lanes + w);
        }
        store(pairs + at + w, total);
      }
    }
    with_elements(t, step.out, [&](auto* elements) {
      auto* out = elements + r * t.stride(step.out);
      for (int64_t i = 0; i < step.first; ++i) store_one(out + i, x[i]);
      for (int64_t i = 0; i < at; ++i) store_one(out + step.first + i, pairs[i]);
    });
  }
}

}  // namespace
}  // namespace smt::cpu
