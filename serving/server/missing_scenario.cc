#include "missing_scenario.h"

#include "names.h"

namespace smt::server {
namespace {

constexpr size_t kMaxNamesShown = 10;

}  // namespace

MissingScenario describe_missing(const ServerState& state, std::string_view scenario) {
  if (!state.ready.load(std::memory_order_relaxed)) {
    return {.message = "the server is loading its scenarios; retry"};
  }
  if (auto status = state.store.status(scenario)) {
    std::string why;
    if (status->state == ScenarioState::kUnloaded) {
      why = "it was unloaded by an operator";
    } else if (status->state != ScenarioState::kUnavailable) {
      why = "its first version is being loaded; retry";
    } else if (status->refused_version.empty()) {
      why = status->refused_reason;
    } else {
      why = "version " + quote(status->refused_version) + " was refused: " + status->refused_reason;
    }
    return {.message = "scenario " + quote(scenario) + " has no version to serve: " + why};
  }
  std::vector<std::string> names = state.store.names();
  if (names.empty()) {
    return {.unknown = true, .message = "scenario: " + quote(scenario) + " is unknown; the registry has none yet"};
  }
  std::vector<std::string> near = nearest(scenario, names, kMaxNamesShown);
  std::string listed = near.size() < names.size() ? "nearest of " + std::to_string(names.size()) + ": " + joined(near)
                                                  : "expected one of: " + joined(near);
  return {.unknown = true, .message = "scenario: " + quote(scenario) + " is unknown; " + listed};
}

}  // namespace smt::server
