// The requests of smt.v1.PredictionService that score, from their bytes to columns in one pass.
//
// In place of generated classes: a feature of one value costs those several objects and a copy of its name, which for a
// request of one row is more than all else that is done with it. What is read is what the generated parser would read:
// unknown fields are skipped, repeated numbers may be packed or not, the last of a singular field wins, a oneof's
// member merges with the same and replaces another, text must be UTF-8. Only groups are refused.
#pragma once

#include <google/protobuf/arena.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "transform.h"
#include "wire_limits.h"

namespace smt::server {

struct ScenarioFields {
  std::string_view scenario;
  std::string_view version;
  std::string_view label;
  std::vector<std::string_view> tasks;
};

// A PredictRequest or a MultiPredictRequest. Views of the message's bytes and of memory of the arena; values and
// lengths, which may lie anywhere in the message, are aligned for their type.
struct PredictFields {
  std::vector<ScenarioFields> scenarios;  // one of a PredictRequest, at most kMaxScenarios of the other
  int32_t rows = 0;
  std::string_view request_id;
  std::string_view request_key;
  std::vector<transform::Column> context;
  std::vector<transform::Column> candidates;
  // The name of the first feature whose values are not set; its column holds no floats.
  std::optional<std::string_view> valueless;

  // Throws transform::InputError if there is such a feature.
  void check_values() const;
};

inline constexpr size_t kMaxScenarios = 64;

// `message`: all its bytes; they and the arena must outlive the result. Memory taken is of the order of the message's.
// Throw transform::InputError: for text that is not UTF-8 it names the place, such as
// "candidates[3] 'city'.strings.values[7]", and shows the text. Throw std::bad_alloc.
PredictFields read_predict(std::string_view message, const WireLimits& limits, google::protobuf::Arena& arena);
PredictFields read_multi_predict(std::string_view message, const WireLimits& limits, google::protobuf::Arena& arena);

}  // namespace smt::server
