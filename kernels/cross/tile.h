// `cross` on a tile: DCNv2 layers x <- x0 ⊙ (W x + b) + x (arXiv 2008.13535; reference.py is the specification).
#pragma once

#include "../cpu/tile.h"

namespace smt::cpu {
namespace {

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
    linear<P>(t, current, stride, down.matrix, 0,
              [&](int64_t r, int64_t n, v16f y) { store(h + r * h_stride + n, y); });
    linear<P>(t, h, h_stride, up.matrix, 0, [&](int64_t r, int64_t n, v16f y) {
      int64_t at = r * stride + n;
      store(x + at, load(x0 + at) * y + load(current + at));
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
    linear<P>(t, current, stride, step.layers[l].matrix, 0, [&](int64_t r, int64_t n, v16f y) {
      int64_t at = r * stride + n;
      store(next + at, load(x0 + at) * y + load(current + at));
    });
    current = next;
  }
}

}  // namespace
}  // namespace smt::cpu
