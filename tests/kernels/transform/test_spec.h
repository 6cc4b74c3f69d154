// The FeatureSpec of the C++ tests: every kind of feature, slots that nothing fills.
#pragma once

#include <string_view>

namespace smt::transform {

// Slots: dense 0..2 (1 is unmapped), categorical 0..5 (4 is unmapped).
inline constexpr std::string_view kSpec = R"({
  "format": 1, "dense_slots": 3, "categorical_slots": 6, "table_rows": 31,
  "features": [
    {"name": "age", "input": "age", "type": "number", "required": true, "kind": "dense", "slot": 0, "default": null,
     "steps": [{"op": "clip", "low": -2, "high": 90.5}, {"op": "normalise", "mean": 1.0, "std": 2.0}]},
    {"name": "gain", "input": "gain", "type": "number", "required": false, "kind": "dense", "slot": 2, "default": 7,
     "steps": [{"op": "log"}]},
    {"name": "age_bucket", "input": "age", "type": "number", "required": true, "kind": "categorical", "slot": 0,
     "multi_valued": false, "max_length": 1, "first_row": 0, "rows": 5, "default": null,
     "encode": {"op": "bucketise", "boundaries": [10.0, 20.0]}},
    {"name": "education", "input": "education", "type": "string", "required": true, "kind": "categorical", "slot": 5,
     "multi_valued": false, "max_length": 1, "first_row": 5, "rows": 5, "default": "b",
     "encode": {"op": "vocabulary", "values": ["a", "b", ""]}},
    {"name": "genres", "input": "genres", "type": "string", "required": false, "kind": "categorical", "slot": 1,
     "multi_valued": true, "max_length": 2, "first_row": 10, "rows": 7, "default": null,
     "encode": {"op": "hash", "size": 5, "seed": 18446744073709551615}},
    {"name": "weeks", "input": "weeks", "type": "int", "required": false, "kind": "categorical", "slot": 2,
     "first_row": 17, "rows": 5, "encode": {"op": "vocabulary", "values": [-9223372036854775808, 0, 52]}},
    {"name": "user", "input": "user", "type": "int", "required": false, "kind": "categorical", "slot": 3,
     "first_row": 22, "rows": 9, "encode": {"op": "hash", "size": 7}}
  ]
})";

}  // namespace smt::transform
