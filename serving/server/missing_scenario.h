// What a client is told about a scenario that has no snapshot to serve.
#pragma once

#include <string>
#include <string_view>

#include "server_state.h"

namespace smt::server {

struct MissingScenario {
  bool unknown = false;  // NOT_FOUND: the registry has no such scenario; otherwise UNAVAILABLE
  std::string message;
};

// Requires that the store has no snapshot for it (or had none a moment ago).
MissingScenario describe_missing(const ServerState& state, std::string_view scenario);

}  // namespace smt::server
