#include "version_state.h"

#include <algorithm>
#include <utility>

namespace smt::server {
namespace {

using enum VersionState;

constexpr std::array kSteps{
    std::pair{kDiscovered, kVerifying},
    std::pair{kVerifying, kLoading},
    std::pair{kLoading, kWarm},
    std::pair{kWarm, kServing},
    std::pair{kServing, kWarm},
    std::pair{kServing, kDraining},
    std::pair{kWarm, kDraining},
    std::pair{kDraining, kUnloaded},
    // Not fit to be served: found before it was loaded, or while it served (a canary's alarm; its requests end first).
    std::pair{kVerifying, kRefused},
    std::pair{kLoading, kRefused},
    std::pair{kDraining, kRefused},
    // Given up: the server stops, the operator's call ended, or something more urgent came.
    std::pair{kVerifying, kUnloaded},
    std::pair{kLoading, kUnloaded},
};

}  // namespace

std::string_view version_state_name(VersionState state) {
  switch (state) {
    case kDiscovered:
      return "discovered";
    case kVerifying:
      return "verifying";
    case kLoading:
      return "loading";
    case kWarm:
      return "warm";
    case kServing:
      return "serving";
    case kDraining:
      return "draining";
    case kUnloaded:
      return "unloaded";
    case kRefused:
      return "refused";
  }
  return "refused";
}

bool may_become(VersionState from, VersionState to) {
  return std::find(kSteps.begin(), kSteps.end(), std::pair{from, to}) != kSteps.end();
}

bool holds_weights(VersionState state) {
  return state == kLoading || state == kWarm || state == kServing || state == kDraining;
}

}  // namespace smt::server
