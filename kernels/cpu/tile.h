// One tile: up to some hundred rows of one scenario, and the memory their activations live in while all layers run.
#pragma once

#include "gemm.h"

namespace smt::cpu {
namespace {

template <class P>
struct Tile {
  using Act = typename P::Act;

  const Program& program;
  const Inputs& in;
  const std::byte* slot;  // packed weights of the tile's scenario
  int64_t pool_base;      // its first row in the pool
  int64_t first, rows;    // rows of the call
  int64_t capacity;       // rows the buffers are made for
  float* sums;            // [capacity, 32]: one panel of a product
  std::byte* quantised;   // int8: activations of one matrix, with their scales
  std::byte* buffers;

  std::byte* memory(int64_t buffer) const {
    const Buffer& b = program.buffers[buffer];
    return buffers + (sizeof(Act) == 4 ? b.float_offset : b.half_offset) * capacity;
  }
  Act* act(int64_t buffer) const { return reinterpret_cast<Act*>(memory(buffer)); }
  float* floats(int64_t buffer) const { return reinterpret_cast<float*>(memory(buffer)); }
  int64_t stride(int64_t buffer) const { return program.buffers[buffer].stride; }
  int64_t group_stride(int64_t buffer) const { return program.buffers[buffer].group_stride; }
  const float* weights(int64_t offset) const { return reinterpret_cast<const float*>(slot + offset); }
};

// Calls epilogue(row, column, value) for each row and vector of 16 columns of  a · Wᵀ + b,  one group of `m`.
// a: [rows, lda], its columns from k to the next multiple of 32 zero. The epilogue may write what `a` does not alias.
template <class P, class Epilogue>
SMT_INLINE void linear(const Tile<P>& t, const typename P::Act* a, int64_t lda, const Matrix& m, int64_t group,
                       Epilogue&& epilogue) {
  auto x = P::operand(a, lda, t.rows, m.k, t.quantised);
  const std::byte* weights = t.slot + m.weight + group * m.group_bytes;
  const float* bias = t.weights(m.bias) + group * m.n16;
  const float* scale = t.weights(m.scale) + group * m.n16;
  const auto* shift = reinterpret_cast<const int32_t*>(t.slot + m.shift) + group * m.n16;
  int64_t panel_bytes = m.group_bytes / (m.n16 / kLanes) * 2;
  constexpr bool kScaled = requires { x.scales; };
  for (int64_t n = 0; n < m.n16; n += kPanel, weights += panel_bytes) {
    int64_t vectors = m.n16 - n >= kPanel ? 2 : 1;
    P::panel(x, t.rows, weights, m.k, vectors, t.sums);
    for (int64_t v = 0; v < vectors; ++v) {
      int64_t column = n + v * kLanes;
      v16f b = load(bias + column);
      v16f s{};
      v16i z{};
      if constexpr (kScaled) {
        s = load(scale + column);
        z = load(shift + column);
      }
      for (int64_t r = 0; r < t.rows; ++r) {
        epilogue(r, column, P::value(x, r, t.sums + r * kPanel + v * kLanes, s, z) + b);
      }
    }
  }
}

// Calls body.operator()<Activation>(): the activation is chosen once a matrix, not once a value.
template <class Body>
SMT_INLINE void with_activation(Activation activation, Body&& body) {
  switch (activation) {
    case Activation::kRelu:
      return body.template operator()<Activation::kRelu>();
    case Activation::kGelu:
      return body.template operator()<Activation::kGelu>();
    case Activation::kSilu:
      return body.template operator()<Activation::kSilu>();
  }
}

}  // namespace
}  // namespace smt::cpu
