// `cross` on a tile: DCNv2 layers x <- x0 ⊙ (W x + b) + x (arXiv 2008.13535; reference.py is the specification).
#pragma once

#include "../cpu/tile.h"

namespace smt::cpu {
namespace {

// out = x0 ⊙ y + x; `out` may be `x`.
template <int V, class Act>
SMT_INLINE void add_crossed(const Act* x0, const Act* x, const Columns<V>& y, Act* out) {
  y.write(y.map(y, [&](v16f value, int v) { return load(x0 + v * kLanes) * value + load(x + v * kLanes); }), out);
}

template <class P>
void run_cross_low_rank(const Tile<P>& t, const Step& step) {
  auto* x0 = t.act(step.in);
  auto* x = t.act(step.out);
  int64_t stride = t.stride(step.in);  // of both
  const typename P::Act* current = x0;
  for (int64_t l = 0; l < step.layer_count; l += 2) {
    const Layer& down = step.layers[l];
    const Layer& up = step.layers[l + 1];
    auto* h = t.act(down.out);
    int64_t h_stride = t.stride(down.out);
    linear<P>(t, operand(t, current, stride, down.matrix.k), down.matrix, 0,
              [&]<int V>(int64_t r, int64_t n, const Columns<V>& y) { y.write(y, h + r * h_stride + n); });
    linear<P>(t, operand(t, h, h_stride, up.matrix.k), up.matrix, 0,
              [&]<int V>(int64_t r, int64_t n, const Columns<V>& y) {
                add_crossed(x0 + r * stride + n, current + r * stride + n, y, x + r * stride + n);
              });
    current = x;
  }
}

template <class P>
void run_cross_full(const Tile<P>& t, const Step& step) {
  auto* x0 = t.act(step.in);
  int64_t stride = t.stride(step.in);
  const typename P::Act* current = x0;
  for (int64_t l = 0; l < step.layer_count; ++l) {
    // A matrix reads the whole row, so the next one goes elsewhere; the last into `out`.
    auto* next = t.act((step.layer_count - l) % 2 == 1 ? step.out : step.swap);
    const Matrix& matrix = step.layers[l].matrix;
    linear<P>(t, operand(t, current, stride, matrix.k), matrix, 0,
              [&]<int V>(int64_t r, int64_t n, const Columns<V>& y) {
                add_crossed(x0 + r * stride + n, current + r * stride + n, y, next + r * stride + n);
              });
    current = next;
  }
}

}  // namespace
}  // namespace smt::cpu
