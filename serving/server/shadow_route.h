// Which version of a scenario scores again what its stable one has answered.
#pragma once

#include <memory>
#include <string>

#include "divergence.h"
#include "snapshot.h"

namespace smt::server {

// Immutable, but for what the divergence counts. Owned by the scenario store; what waits to be scored refers to it
// weakly, so that nothing of a shadow that was taken away is kept by a queue.
struct ShadowRoute {
  std::shared_ptr<const LoadedSnapshot> shadow;
  double percent = 100;       // of the requests that the stable version answers
  std::string compared_with;  // the stable version
  std::shared_ptr<Divergence> divergence;
};

// The tasks that both versions have.
std::vector<TaskPair> common_tasks(const LoadedSnapshot& stable, const LoadedSnapshot& shadow);

// Whether chance gives this request to a shadow of so many percent.
bool sampled(double percent);

}  // namespace smt::server
