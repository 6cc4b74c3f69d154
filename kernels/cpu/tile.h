// One tile: up to some hundred rows of one scenario, and the memory their activations live in while all layers run.
#pragma once

#include "gemm.h"

namespace smt::cpu {
namespace {

// Bytes of one row of the pool: int8 rows carry their scale and bias (two floats) behind the values.
SMT_INLINE int64_t pool_row_bytes(TableType table, int64_t dim) {
  switch (table) {
    case TableType::kFp32:
      return dim * 4;
    case TableType::kFp16:
      return dim * 2;
    case TableType::kInt8:
      return dim + 8;
  }
  return 0;
}

// The table row of an id, or null when it lies outside the pool (nothing is read outside, whatever the ids are).
SMT_INLINE const std::byte* pool_row(const Inputs& in, int64_t pool_base, int64_t id, int64_t row_bytes) {
  if (id < 0 || pool_base < 0) return nullptr;
  uint64_t row = static_cast<uint64_t>(pool_base) + static_cast<uint64_t>(id);  // no sum of these overflows
  if (row >= static_cast<uint64_t>(in.pool_rows)) return nullptr;
  return in.pool + static_cast<int64_t>(row) * row_bytes;
}

// Asks for the table rows of the next tile while this one computes, a few every eight rows of each panel: each is a
// miss of all caches in a table of any size, and only so many can be under way at once.
constexpr int64_t kPrefetchRows = 8;
struct Prefetcher {
  const Inputs& in;
  int64_t row_bytes;  // of the pool
  int64_t pool_base;
  int64_t next, end;  // places of bag_index
  int64_t step;       // of them at a time

  void some() { ahead(step); }
  void ahead(int64_t places) { up_to(next + places < end ? next + places : end); }
  void up_to(int64_t last) {
    for (; next < last; ++next) {
      int64_t bag = in.bag_index[next];
      int64_t begin = in.offsets[bag];
      if (begin == in.offsets[bag + 1]) continue;
      const std::byte* row = pool_row(in, pool_base, in.ids[begin], row_bytes);
      if (row == nullptr) continue;
      for (int64_t b = 0; b < row_bytes; b += 64) __builtin_prefetch(row + b);
    }
  }
};

template <class P>
struct Tile {
  using Act = typename P::Act;

  const Program& program;
  const Inputs& in;
  const std::byte* slot;  // packed weights of the tile's scenario
  int64_t pool_base;      // its first row in the pool
  int64_t first, rows;    // rows of the call
  bool follows;           // the row above `first` is of the same scenario, and was in the tile before
  int64_t capacity;       // rows the buffers are made for
  float* sums;            // [capacity, 32]: one panel of a product
  std::byte* quantised;   // activations of one matrix as integers, with their scales
  std::byte* buffers;
  Prefetcher* ahead;
  bool stream;  // weights come from beyond the second-level cache: fetch them ahead
  bool half;    // activations of the program's precision have 16 bits (this tile may be an fp32 view of it)

  std::byte* memory(int64_t buffer) const {
    const Buffer& b = program.buffers[buffer];
    return buffers + (half ? b.half_offset : b.float_offset) * capacity;
  }
  Act* act(int64_t buffer) const { return reinterpret_cast<Act*>(memory(buffer)); }
  float* floats(int64_t buffer) const { return reinterpret_cast<float*>(memory(buffer)); }
  int64_t stride(int64_t buffer) const { return program.buffers[buffer].stride; }
  int64_t group_stride(int64_t buffer) const { return program.buffers[buffer].group_stride; }
  const float* weights(int64_t offset) const { return reinterpret_cast<const float*>(slot + offset); }
};

// The same tile for a step that is computed in another precision; it may touch float buffers only.
template <class To, class From>
SMT_INLINE Tile<To> viewed_as(const Tile<From>& t) {
  return {t.program,  t.in,   t.slot,      t.pool_base, t.first, t.rows,   t.follows,
          t.capacity, t.sums, t.quantised, t.buffers,   t.ahead, t.stream, t.half};
}

// Calls body(pointer to the buffer's elements), which are floats or activations.
template <class P, class Body>
SMT_INLINE void with_elements(const Tile<P>& t, int64_t buffer, Body&& body) {
  if (t.program.buffers[buffer].is_float) {
    body(t.floats(buffer));
  } else {
    body(t.act(buffer));
  }
}

// One or two neighbouring vectors of 16 columns: the part of a panel that an epilogue gets for a row.
template <int V>
struct Columns {
  v16f at[V];

  template <class F>
  SMT_INLINE Columns map(const Columns& x, F&& f) {
    Columns y;
    for (int v = 0; v < V; ++v) y.at[v] = f(x.at[v], v);
    return y;
  }
  template <class T>
  SMT_INLINE void write(const Columns& x, T* p) {
    if constexpr (V == 2) {
      store(p, x.at[0], x.at[1]);
    } else {
      store(p, x.at[0]);
    }
  }
};

template <int V, class P, class Epilogue>
SMT_INLINE void finish_panel(const Tile<P>& t, const typename P::Operand& x, const Matrix& m, int64_t group, int64_t n,
                             Epilogue&& epilogue) {
  const float* bias = t.weights(m.bias) + group * m.n16 + n;
  constexpr bool kScaled = requires { x.scales; };
  v16f b[V], s[V] = {};
  v16i z[V] = {};
  for (int v = 0; v < V; ++v) {
    b[v] = load(bias + v * kLanes);
    if constexpr (kScaled) {
      s[v] = load(t.weights(m.scale) + group * m.n16 + n + v * kLanes);
      z[v] = load(reinterpret_cast<const int32_t*>(t.slot + m.shift) + group * m.n16 + n + v * kLanes);
    }
  }
  const float* sums = t.sums;
  for (int64_t r = 0, rows = t.rows; r < rows;) {
    t.ahead->some();
    for (int64_t end = r + kPrefetchRows < rows ? r + kPrefetchRows : rows; r < end; ++r, sums += kPanel) {
      Columns<V> y;
      for (int v = 0; v < V; ++v) y.at[v] = P::value(x, r, sums + v * kLanes, s[v], z[v]) + b[v];
      epilogue(r, n, y);
    }
  }
}

// Depth of a product: of activations that are split in two, float has everything in the first part.
template <class P>
SMT_INLINE int64_t depth(const Matrix& m) {
  return m.twice && sizeof(typename P::Act) == sizeof(float) ? m.k / 2 : m.k;
}

// What multiplies: made once for all groups of a matrix that read the same columns. a: [rows, lda], its columns from k
// to the next multiple of 32 zero.
template <class P>
SMT_INLINE typename P::Operand operand(const Tile<P>& t, const typename P::Act* a, int64_t lda, const Matrix& m) {
  return P::operand(a, lda, t.rows, depth<P>(m), *t.weights(m.levels), t.quantised);
}

// Calls epilogue(row, column, Columns) for each row and panel of  a · Wᵀ + b,  one group of `m`. The epilogue may write
// what the operand does not alias.
template <class P, class Epilogue>
SMT_INLINE void linear(const Tile<P>& t, const typename P::Operand& x, const Matrix& m, int64_t group,
                       Epilogue&& epilogue) {
  const std::byte* weights = t.slot + m.weight + group * m.group_bytes;
  int64_t panel_bytes = m.group_bytes / (m.n16 / kLanes) * 2;
  for (int64_t n = 0; n < m.n16; n += kPanel, weights += panel_bytes) {
    int64_t vectors = m.n16 - n >= kPanel ? 2 : 1;
    P::panel(x, t.rows, weights, depth<P>(m), vectors, t.sums, t.stream);
    if (vectors == 2) {
      finish_panel<2>(t, x, m, group, n, epilogue);
    } else {
      finish_panel<1>(t, x, m, group, n, epilogue);
    }
  }
}

// Activations for the next matrix to multiply: a float buffer, rounded into one of the same shape.
template <class P>
void round_into(const Tile<P>& t, int64_t from, int64_t to) {
  int64_t stride = t.stride(from);
  for (int64_t r = 0; r < t.rows; ++r) {
    const float* x = t.floats(from) + r * stride;
    auto* out = t.act(to) + r * stride;
    // Rows are whole panels.
    for (int64_t i = 0; i < stride; i += kPanel) store(out + i, load(x + i), load(x + i + kLanes));
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
