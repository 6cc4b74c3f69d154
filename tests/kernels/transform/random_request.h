// Random FeatureSpecs, and requests that fit them, for property tests.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <list>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "transform.h"

namespace smt::transform {

using Random = std::mt19937;

inline int64_t pick(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}
inline bool chance(Random& random, int percent) { return pick(random, 1, 100) <= percent; }

// Numbers of slots that all specs of one batch share.
struct Slots {
  int64_t dense = 4;
  int64_t categorical = 7;
};

inline nlohmann::json random_steps(Random& random) {
  nlohmann::json steps = nlohmann::json::array();
  for (int64_t i = pick(random, 0, 3); i > 0; --i) {
    const std::array<nlohmann::json, 3> all = {nlohmann::json{{"op", "log"}},
                                               {{"op", "clip"}, {"low", -2.5}, {"high", 7}},
                                               {{"op", "normalise"}, {"mean", 1.25}, {"std", 0.3}}};
    steps.push_back(all[static_cast<size_t>(pick(random, 0, 2))]);
  }
  return steps;
}

// Returns the encoder and sets `size`, the number of its values.
inline nlohmann::json random_encoder(Random& random, const std::string& type, int64_t& size) {
  if (type == "number" || (type == "int" && chance(random, 25))) {
    size = 4;
    return {{"op", "bucketise"}, {"boundaries", {-1.0, 0.5, 20.0}}};
  }
  if (chance(random, 50)) {
    size = 5;
    if (type == "int") return {{"op", "vocabulary"}, {"values", {0, 1, -7, 52, 3}}};
    return {{"op", "vocabulary"}, {"values", {"", "a", "value 3", "value 4", "a longer value than the others"}}};
  }
  size = pick(random, 1, 1000);
  return {{"op", "hash"}, {"size", size}, {"seed", pick(random, 0, 1 << 30)}};
}

// Features of every kind over a few inputs; some slots stay unmapped, and a spec may have no categorical feature.
inline FeatureSpec random_spec(Random& random, const Slots& slots) {
  nlohmann::json features = nlohmann::json::array();
  int64_t first_row = 0;
  std::array<bool, 6> required{};
  for (bool& r : required) r = chance(random, 50);
  static constexpr std::array<const char*, 6> kTypes = {"number", "number", "int", "int", "string", "string"};
  const auto add = [&](const char* kind, int64_t slot, size_t input) -> nlohmann::json& {
    const std::string name = std::string(kind) + std::to_string(slot);
    features.push_back({{"name", name},
                        {"input", "in" + std::to_string(input)},
                        {"type", kTypes[input]},
                        {"required", static_cast<bool>(required[input])},
                        {"kind", kind},
                        {"slot", slot}});
    return features.back();
  };
  for (int64_t slot = 0; slot < slots.dense; ++slot) {
    if (chance(random, 20)) continue;
    nlohmann::json& feature = add("dense", slot, static_cast<size_t>(pick(random, 0, 3)));
    feature["steps"] = random_steps(random);
    if (chance(random, 50)) feature["default"] = 3;
  }
  const int categorical = chance(random, 10) ? 0 : 80;
  for (int64_t slot = 0; slot < slots.categorical; ++slot) {
    if (!chance(random, categorical)) continue;
    const auto input = static_cast<size_t>(pick(random, 0, 5));
    nlohmann::json& feature = add("categorical", slot, input);
    int64_t size = 0;
    feature["encode"] = random_encoder(random, kTypes[input], size);
    feature["multi_valued"] = chance(random, 50);
    feature["max_length"] = feature["multi_valued"].get<bool>() ? pick(random, 1, 4) : 1;
    if (!feature["multi_valued"].get<bool>() && chance(random, 50)) {
      feature["default"] = kTypes[input] == std::string("string") ? nlohmann::json("a") : nlohmann::json(1);
    }
    feature["first_row"] = first_row;
    feature["rows"] = size + kFirstValueRow;
    first_row += size + kFirstValueRow;
  }
  return FeatureSpec::parse(nlohmann::json{
      {"format", 1},
      {"dense_slots", slots.dense},
      {"categorical_slots", slots.categorical},
      {"table_rows", first_row},
      {"features", features}}.dump());
}

// The columns of one request and the memory that they view. Does not move: the views stay valid.
class Request {
 public:
  Request(Random& random, const FeatureSpec& spec, int64_t rows) : rows(rows) {
    for (const InputInfo& input : spec.inputs()) {
      if (!input.required && chance(random, 25)) continue;
      if (chance(random, 25)) {
        context.push_back(column(random, input, 1));
      } else {
        candidates.push_back(column(random, input, rows));
      }
    }
  }
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  const int64_t rows;
  std::vector<Column> context;
  std::vector<Column> candidates;

 private:
  Column column(Random& random, const InputInfo& input, int64_t rows) {
    Column out{.name = input.name, .values = {}, .lengths = {}};
    int64_t count = rows;
    if (chance(random, 60)) {
      std::vector<int32_t>& lengths = lengths_.emplace_back();
      const bool none_missing = chance(random, 25);
      count = 0;
      for (int64_t row = 0; row < rows; ++row) {
        lengths.push_back(none_missing ? 1 : static_cast<int32_t>(pick(random, 0, input.multi_valued ? 6 : 1)));
        count += lengths.back();
      }
      out.lengths = lengths;
    }
    if (input.type == "string") {
      out.values = StringValues(fill(strings_, count, [&] { return string(random); }));
    } else if (input.type == "int" || chance(random, 30)) {
      out.values = IntValues(fill(ints_, count, [&] { return integer(random); }));
    } else if (chance(random, 50)) {
      out.values = FloatValues(fill(floats_, count, [&] { return static_cast<float>(number(random)); }));
    } else {
      out.values = DoubleValues(fill(doubles_, count, [&] { return number(random); }));
    }
    return out;
  }

  template <class T, class F>
  static const std::vector<T>& fill(std::list<std::vector<T>>& held, int64_t count, F next) {
    std::vector<T>& out = held.emplace_back();
    for (int64_t i = 0; i < count; ++i) out.push_back(next());
    out.shrink_to_fit();  // AddressSanitizer then sees one value of reading on
    return out;
  }

  static std::string_view string(Random& random) {
    static constexpr std::array<std::string_view, 5> kAll = {"", "a", "value 3", "not in any vocabulary", "b"};
    return kAll[static_cast<size_t>(pick(random, 0, 4))];
  }
  static int64_t integer(Random& random) {
    if (chance(random, 50)) return pick(random, -8, 8);
    return pick(random, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  }
  static double number(Random& random) { return std::normal_distribution<double>(0, 30)(random); }

  std::list<std::vector<int32_t>> lengths_;
  std::list<std::vector<float>> floats_;
  std::list<std::vector<double>> doubles_;
  std::list<std::vector<int64_t>> ints_;
  std::list<std::vector<std::string_view>> strings_;
};

}  // namespace smt::transform
