// What the operator grants each scenario: the file of --scheduling.
//
//   {"default":   {"weight": 1, "priority": 0, "queue_requests": 1024, "queue_ms": 250, "rows_per_second": 0},
//    "scenarios": {"feed": {"weight": 3}, "mail": {"priority": -1, "rows_per_second": 20000}}}
//
// Every key is optional; what a scenario does not say it takes from "default", what that does not say from the above.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "file_io.h"
#include "scenario_queue.h"

namespace smt::server {

struct SchedulingConfig {
  ScenarioPolicy fallback;
  std::map<std::string, ScenarioPolicy, std::less<>> scenarios;
};

// Throws Refused that names `shown`, the field, what was found and what is expected.
SchedulingConfig parse_scheduling(std::string_view json, const std::string& shown);

// Not thread-safe.
class SchedulingFile {
 public:
  // `path` empty: no file, the defaults for all.
  explicit SchedulingFile(std::filesystem::path path) : path_(std::move(path)) {}

  // Throws Refused.
  SchedulingConfig read();
  // The file is not as read() found it.
  bool changed() const { return touched_.changed(); }

 private:
  const std::filesystem::path path_;
  TouchedFiles touched_;
};

}  // namespace smt::server
