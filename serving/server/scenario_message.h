// A scenario's status as clients see it.
#pragma once

#include <string_view>
#include <vector>

#include "lifecycle.h"
#include "scenario_store.h"
#include "smt/v1/prediction.pb.h"

namespace smt::server {

// SERVING, LOADING, UNAVAILABLE or UNLOADED.
std::string_view state_name(ScenarioState state);

// `versions`: of the scenario, from the ledger.
void fill_status(const ScenarioStatus& status, const std::vector<VersionStatus>& versions, v1::ScenarioStatus& out);

}  // namespace smt::server
