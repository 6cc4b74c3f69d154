#include "scheduling_config.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "json_fields.h"
#include "names.h"
#include "refusal.h"

namespace smt::server {
namespace {

constexpr uint64_t kMaxBytes = 4 << 20;

// Of the keys of `fields`, those that are not `known` are mistakes: a misspelt limit would not limit.
void check_keys(const Fields& fields, const nlohmann::json& value, std::span<const std::string> known) {
  for (const auto& item : value.items()) {
    if (std::find(known.begin(), known.end(), item.key()) == known.end()) {
      throw Refused(Reason::kManifest, fields.file() + ": field '" + shortened(fields.path_of(item.key()), 200) +
                                           "': unknown; expected one of: " + joined(known));
    }
  }
}

double number(const Fields& fields, const nlohmann::json& value, const std::string& key, double fallback, double low,
              double high, const std::string& expected) {
  auto it = value.find(key);
  if (it == value.end()) return fallback;
  if (!it->is_number()) fields.fail(key, &*it, expected);
  auto found = it->get<double>();
  if (!(found >= low && found <= high)) fields.fail(key, &*it, expected);
  return found;
}

ScenarioPolicy parse_policy(const Fields& fields, const nlohmann::json& value, ScenarioPolicy policy) {
  static const std::array<std::string, 5> kKeys{"weight", "priority", "queue_requests", "queue_ms", "rows_per_second"};
  check_keys(fields, value, kKeys);
  policy.weight = number(fields, value, "weight", policy.weight, 1e-3, 1e6, "a number 0.001..1000000");
  if (value.contains("priority")) policy.priority = static_cast<int>(fields.integer("priority", -100, 100));
  if (value.contains("queue_requests")) policy.queue_requests = fields.integer("queue_requests", 1, 1 << 20);
  if (value.contains("queue_ms")) policy.queue_ms = fields.integer("queue_ms", 1, 3'600'000);
  policy.rows_per_second =
      number(fields, value, "rows_per_second", policy.rows_per_second, 0, 1e12, "a number 0..1e12 (0: no quota)");
  return policy;
}

}  // namespace

SchedulingConfig parse_scheduling(std::string_view json, const std::string& shown) {
  static const std::array<std::string, 2> kKeys{"default", "scenarios"};
  nlohmann::json document = parse_json(json, shown);
  Fields fields(document, shown);
  check_keys(fields, document, kKeys);
  SchedulingConfig config;
  if (document.contains("default")) {
    config.fallback = parse_policy(fields.object("default"), document["default"], config.fallback);
  }
  if (document.contains("scenarios")) {
    Fields scenarios = fields.object("scenarios");
    for (const auto& item : document["scenarios"].items()) {
      if (!valid_name(item.key())) {
        throw Refused(Reason::kManifest, shown + ": field 'scenarios': found " + quote(item.key()) +
                                             "; expected names of 1..64 characters a-z 0-9 _ -");
      }
      config.scenarios[item.key()] = parse_policy(scenarios.object(item.key()), item.value(), config.fallback);
    }
  }
  return config;
}

SchedulingConfig SchedulingFile::read() {
  if (path_.empty()) return {};
  touched_ = {};
  touched_.add(path_);
  return parse_scheduling(read_text(path_, path_.string(), kMaxBytes), path_.string());
}

}  // namespace smt::server
