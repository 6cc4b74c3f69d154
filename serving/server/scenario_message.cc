#include "scenario_message.h"

#include <string>

namespace smt::server {

std::string_view state_name(ScenarioState state) {
  switch (state) {
    case ScenarioState::kLoading:
      return "LOADING";
    case ScenarioState::kServing:
      return "SERVING";
    case ScenarioState::kUnavailable:
      return "UNAVAILABLE";
    case ScenarioState::kUnloaded:
      return "UNLOADED";
  }
  return "UNAVAILABLE";
}

void fill_status(const ScenarioStatus& status, const std::vector<VersionStatus>& versions, v1::ScenarioStatus& out) {
  out.set_scenario(status.scenario);
  out.set_version(status.version);
  out.set_state(std::string(state_name(status.state)));
  out.set_refused_version(status.refused_version);
  out.set_refused_reason(status.refused_reason);
  out.set_abi_hash(status.abi_hash);
  out.set_weight_bytes(status.weight_bytes);
  out.set_loads(status.loads);
  for (const VersionStatus& version : versions) {
    v1::VersionStatus* each = out.add_versions();
    each->set_version(version.version);
    each->set_state(std::string(version_state_name(version.state)));
    each->set_since_unix_ms(
        std::chrono::duration_cast<std::chrono::milliseconds>(version.since.time_since_epoch()).count());
    each->set_weight_bytes(version.bytes);
    each->set_label(version.label);
    each->set_reason(version.reason);
  }
}

}  // namespace smt::server
