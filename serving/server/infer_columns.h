// The inputs of a ModelInferRequest as transformation columns; values are not copied where the layout allows.
#pragma once

#include <google/protobuf/arena.h>

#include <cstdint>
#include <vector>

#include "infer_tensor.h"

namespace smt::server {

// Point into the request and into memory of the arena that they were made with.
struct InferColumns {
  int64_t rows = 0;
  std::vector<transform::Column> context;     // one row each
  std::vector<transform::Column> candidates;  // `rows` rows each
};

// The mapping, which docs/protocols.md shows by example:
// - A tensor is a column of its name. [rows] and [rows, 1] hold one value per row; [rows, k] holds k.
// - A tensor NAME.lengths (INT32, [rows]) beside a tensor NAME ([values]) holds the number of NAME's values per row.
// - The rows of the request are `stated_rows`, its parameter, else the most rows of any input. An input of one row is
// then a context feature,
//   any other has to have that many rows.
// Throws transform::InputError, which names the input. Memory taken is of the order of the request's: no shape is
// believed before as many values were counted, nor more rows than `max_rows`.
InferColumns view_inputs(const inference::ModelInferRequest& request, std::optional<int64_t> stated_rows,
                         int64_t max_rows, google::protobuf::Arena& arena);

}  // namespace smt::server
