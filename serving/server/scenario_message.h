// A scenario's status as clients see it.
#pragma once

#include <string_view>

#include "scenario_store.h"
#include "smt/v1/prediction.pb.h"

namespace smt::server {

// SERVING, LOADING, UNAVAILABLE or UNLOADED.
std::string_view state_name(ScenarioState state);

void fill_status(const ScenarioStatus& status, v1::ScenarioStatus& out);

}  // namespace smt::server
