// Where the rows of a version's table lie that was published as a delta: most of them in the table that it is built
// on, the changed ones in ranges of their own.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "weight_arena.h"

namespace smt::server {

// What one delta changes: row rows[i] of the table is row i of `values`.
struct DeltaRows {
  std::vector<int64_t> rows;  // strictly increasing
  std::shared_ptr<const PoolRange> values;
};

// A map from rows of the table to rows of the pool, immutable after construction: any number of threads may read it.
// It keeps the ranges of the changed rows alive, and shares them with the versions above and below it.
//
// Memory: table_rows / 8 bytes for the bitmap of changed rows, half as much for its ranks, 8 bytes for each changed
// row. A look-up of a row that did not change reads one word of the bitmap.
class RowOverlay {
 public:
  // Over `table`, or over the version that has the overlay `below` (null: none) over it, with `deltas` on top, the
  // oldest first. A delta's rows lie in [0, table_rows); each row beyond the end of `table` must be in `below` or in a
  // delta. Throws std::bad_alloc.
  RowOverlay(const PoolRange& table, const RowOverlay* below, std::span<const DeltaRows> deltas, int64_t table_rows);

  // Rows of the table become rows of the pool: [0, table_rows()) -> where each lies.
  void resolve(std::span<int64_t> ids) const noexcept;

  int64_t table_rows() const { return table_rows_; }
  int64_t changed_rows() const { return static_cast<int64_t>(pool_row_.size()); }
  // Of the changed rows' ranges and of the map itself.
  int64_t bytes() const;
  std::span<const std::shared_ptr<const PoolRange>> ranges() const { return ranges_; }

 private:
  static constexpr int64_t kWordBits = 64;

  // The changed rows before `row`, which is changed itself: where its entry in pool_row_ is.
  size_t rank(int64_t row) const;
  void mark(std::span<const DeltaRows> deltas);

  const int64_t first_row_;  // of the table, in the pool
  const int64_t table_rows_;
  std::vector<uint64_t> changed_;  // a bit for each row of the table
  std::vector<uint32_t> rank_;     // changed rows before each word of it
  std::vector<int64_t> pool_row_;  // of each changed row, in their order
  std::vector<std::shared_ptr<const PoolRange>> ranges_;
};

}  // namespace smt::server
