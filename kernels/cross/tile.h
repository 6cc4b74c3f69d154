// `cross` on a tile: DCNv2 layers x <- x0 ⊙ (W x + b) + x (arXiv 2008.13535; reference.py is the specification).
#pragma once

#include "../cpu/tile.h"

namespace smt::cpu {
namespace {

// x in float for the sums of the next layer and rounded for its product; the last layer has a result only. Where what
// multiplies is float as well, it is both.
template <class P>
struct Crossed {
  static constexpr bool kRounds = sizeof(typename P::Act) < sizeof(float);
  const float* x0;
  const float* x;  // of the layer before
  float* next;     // null in the last layer, and without rounding
};

// next = x0 ⊙ y + x, and the same into `out`.
template <int V, class P, class Out>
SMT_INLINE void add_crossed(const Crossed<P>& c, int64_t at, const Columns<V>& y, Out* out) {
  auto sums =
      y.map(y, [&](v16f value, int v) { return load(c.x0 + at + v * kLanes) * value + load(c.x + at + v * kLanes); });
  if constexpr (Crossed<P>::kRounds) {
    if (c.next != nullptr) sums.write(sums, c.next + at);
  }
  sums.write(sums, out + at);
}

// The buffer of x that a layer multiplies.
template <class P>
SMT_INLINE int64_t multiplied(const Step& step, int64_t layer) {
  return layer == 0 && !Crossed<P>::kRounds ? step.in : step.operands[layer % 2];
}

// product(layer, body): calls body(row, column, Columns) for  W x + b  of the layer.
template <class P, class Product>
SMT_INLINE void run_cross(const Tile<P>& t, const Step& step, int64_t layers, Product&& product) {
  constexpr bool kRounds = Crossed<P>::kRounds;
  if constexpr (kRounds) round_into(t, step.in, step.operands[0]);
  int64_t stride = t.stride(step.in);  // of all buffers of this width
  Crossed<P> c{t.floats(step.in), t.floats(step.in), kRounds ? t.floats(step.swap) : nullptr};
  for (int64_t l = 0; l < layers; ++l, c.x = kRounds ? c.next : t.floats(step.operands[l % 2])) {
    if (l + 1 < layers) {
      auto* out = t.act(step.operands[(l + 1) % 2]);
      product(l, [&]<int V>(int64_t r, int64_t n, const Columns<V>& y) { add_crossed(c, r * stride + n, y, out); });
    } else {
      c.next = nullptr;
      with_elements(t, step.out, [&](auto* out) {
        product(l, [&]<int V>(int64_t r, int64_t n, const Columns<V>& y) { add_crossed(c, r * stride + n, y, out); });
      });
    }
  }
}

template <class P>
void run_cross_low_rank(const Tile<P>& t, const Step& step) {
  run_cross(t, step, step.layer_count / 2, [&](int64_t l, auto&& body) {
    const Layer& down = step.layers[2 * l];
    const Matrix& up = step.layers[2 * l + 1].matrix;
    auto* h = t.act(down.out);
    int64_t h_stride = t.stride(down.out);
    linear<P>(t, operand(t, t.act(multiplied<P>(step, l)), t.stride(step.in), down.matrix), down.matrix, 0,
              [&]<int V>(int64_t r, int64_t n, const Columns<V>& y) { y.write(y, h + r * h_stride + n); });
    linear<P>(t, operand(t, h, h_stride, up), up, 0, body);
  });
}

template <class P>
void run_cross_full(const Tile<P>& t, const Step& step) {
  run_cross(t, step, step.layer_count, [&](int64_t l, auto&& body) {
    const Matrix& m = step.layers[l].matrix;
    linear<P>(t, operand(t, t.act(multiplied<P>(step, l)), t.stride(step.in), m), m, 0, body);
  });
}

}  // namespace
}  // namespace smt::cpu
