// Which version of a scenario answers a share of the requests in place of its stable one.
#pragma once

#include <memory>
#include <string_view>

#include "canary_monitor.h"
#include "snapshot.h"

namespace smt::server {

// Immutable, but for what the monitor counts.
struct LabelRoutes {
  std::shared_ptr<const LoadedSnapshot> canary;
  double percent = 0;  // of the requests that name neither a version nor a label
  std::shared_ptr<CanaryMonitor> monitor;
};

// Where a request key lies in [0, 100): a canary of p percent answers the keys below p. The same key has the same place
// in every server and for every version, and another place in other scenarios: XXH3-64 of the key, seeded with that of
// the scenario's name, of which the upper 53 bits are taken as a fraction.
double label_position(std::string_view scenario, std::string_view key);

}  // namespace smt::server
