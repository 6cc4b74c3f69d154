// `embedding` on a tile: pooled bags of table rows (reference.py is the specification), gathered straight into the
// columns of the interaction's input.
#pragma once

#include "../cpu/tile.h"

namespace smt::cpu {
namespace {

// Sixteen values (or the `count` that are left) of a table row.
template <TableType T>
struct TableRow {
  const std::byte* bytes;
  float scale = 1, bias = 0;

  SMT_INLINE TableRow open(const std::byte* bytes, int64_t dim) {
    TableRow row{bytes};
    if constexpr (T == TableType::kInt8) {
      std::memcpy(&row.scale, bytes + dim, sizeof(float));
      std::memcpy(&row.bias, bytes + dim + 4, sizeof(float));
    }
    return row;
  }
  SMT_INLINE float one(const TableRow& row, int64_t i) {
    if constexpr (T == TableType::kFp32) {
      float value;
      std::memcpy(&value, row.bytes + 4 * i, sizeof value);
      return value;
    } else if constexpr (T == TableType::kFp16) {
      uint16_t half;
      std::memcpy(&half, row.bytes + 2 * i, sizeof half);
      return half_to_float(half);
    } else {
      return static_cast<float>(static_cast<int8_t>(row.bytes[i])) * row.scale + row.bias;
    }
  }
  SMT_INLINE v16f sixteen(const TableRow& row, int64_t i) {
    if constexpr (T == TableType::kFp32) {
      return load(reinterpret_cast<const float*>(row.bytes) + i);
    } else if constexpr (T == TableType::kFp16) {
      return load_half(row.bytes + 2 * i);
    } else {
      return load_int8(row.bytes + i) * row.scale + row.bias;
    }
  }
  // The part [i, i + count) of a row, zeros behind.
  SMT_INLINE v16f part(const TableRow& row, int64_t i, int64_t count) {
    if (count >= kLanes) return sixteen(row, i);
    float values[kLanes] = {};
    for (int64_t j = 0; j < count; ++j) values[j] = one(row, i + j);
    return load(values);
  }
};

SMT_INLINE void store_part(float* out, v16f values, int64_t count) {
  if (count >= kLanes) return store(out, values);
  std::memcpy(out, &values, static_cast<size_t>(count) * sizeof(float));
}

// Returns false when an id lies outside the pool.
template <TableType T, class P>
bool gather(const Tile<P>& t, const Step& step) {
  using Row = TableRow<T>;
  int64_t dim = step.dim, row_bytes = pool_row_bytes(T, dim);
  int64_t stride = t.stride(step.out);
  float* columns = t.floats(step.out) + step.first;
  const int64_t* index = t.in.bag_index + t.first * step.slots;
  // The columns of the row above: of the last tile's last row they are kept, since this tile's dense arch, whose
  // vectors reach beyond its columns, has written into the buffer.
  float* kept = t.floats(step.swap);
  const float* above = t.follows ? kept : nullptr;
  // What was asked for during the tile before is far again where the weights have passed through the caches since.
  constexpr int64_t kNear = 32;
  Prefetcher again = *t.ahead;
  again.pool_base = t.pool_base;
  again.next = t.first * step.slots;
  again.end = (t.first + t.rows) * step.slots;
  if (t.stream) again.ahead(kNear);
  for (int64_t r = 0; r < t.rows; ++r, index += step.slots, above = columns + (r - 1) * stride) {
    for (int64_t s = 0; s < step.slots; ++s) {
      if (t.stream) again.ahead(1);
      float* out = columns + r * stride + s * dim;
      int64_t bag = index[s];
      if (above != nullptr && bag == index[s - step.slots]) {  // a context feature: pooled once a request, then copied
        std::memcpy(out, above + s * dim, static_cast<size_t>(dim) * sizeof(float));
        continue;
      }
      int64_t begin = t.in.offsets[bag], end = t.in.offsets[bag + 1];
      float factor = step.pooling == Pooling::kMean && end - begin > 1 ? 1.0F / static_cast<float>(end - begin) : 1.0F;
      for (int64_t i = 0; i < dim; i += kLanes) {
        int64_t count = dim - i;
        v16f pooled{};
        for (int64_t j = begin; j < end; ++j) {
          const std::byte* row = pool_row(t.in, t.pool_base, t.in.ids[j], row_bytes);
          if (row == nullptr) return false;
          pooled += Row::part(Row::open(row, dim), i, count);
        }
        store_part(out + i, pooled * factor, count);
      }
    }
  }
  std::memcpy(kept, columns + (t.rows - 1) * stride, static_cast<size_t>(step.slots * dim) * sizeof(float));
  return true;
}

template <class P>
bool run_gather(const Tile<P>& t, const Step& step) {
  switch (step.table) {
    case TableType::kFp32:
      return gather<TableType::kFp32>(t, step);
    case TableType::kFp16:
      return gather<TableType::kFp16>(t, step);
    case TableType::kInt8:
      return gather<TableType::kInt8>(t, step);
  }
  return false;
}

}  // namespace
}  // namespace smt::cpu
