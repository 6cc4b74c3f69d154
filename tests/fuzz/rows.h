// From a request's columns to rows of a batch, as a worker makes them of a scenario with every kind of feature.
#pragma once

#include <cmath>

#include "kernels/transform/test_spec.h"
#include "targets.h"
#include "transform.h"

namespace smt::fuzz {

inline constexpr int64_t kMaxRows = 4096;

// Throws transform::InputError.
inline void make_rows(int64_t rows, std::span<const transform::Column> context,
                      std::span<const transform::Column> candidates) {
  static const transform::FeatureSpec spec = transform::FeatureSpec::parse(transform::kSpec);
  static transform::CheckedColumns checked;
  static transform::Batch batch;
  spec.check(rows, context, candidates, {.max_rows = kMaxRows}, checked);
  require(rows >= 1 && rows <= kMaxRows, "rows are within the limits");
  // In two parts, as a scheduler may cut them.
  batch.clear();
  const int64_t first = rows / 2;
  if (first > 0) spec.append(checked, 0, first, batch);
  spec.append(checked, first, rows - first, batch);
  require(batch.rows == rows, "every row is there");
  for (float value : batch.dense) require(std::isfinite(value), "dense values are finite");
  for (int64_t id : batch.ids) require(id >= 0 && id < spec.table_rows(), "ids lie in the table");
  int64_t last = 0;
  for (int64_t offset : batch.offsets) {
    require(offset >= last, "offsets ascend");
    last = offset;
  }
  require(last == static_cast<int64_t>(batch.ids.size()), "offsets end with the ids");
  for (int64_t bag : batch.bag_index) {
    require(bag >= 0 && bag + 1 < static_cast<int64_t>(batch.offsets.size()), "rows point to bags");
  }
}

}  // namespace smt::fuzz
