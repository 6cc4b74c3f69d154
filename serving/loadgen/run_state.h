// What the workers of a run share.
#pragma once

#include <atomic>
#include <vector>

#include "payloads.h"
#include "plan.h"
#include "transport.h"

namespace smt::loadgen {

// Outlives the workers.
struct RunState {
  const Plan& plan;
  const Payloads& payloads;
  const std::vector<Address>& addresses;
  SSL_CTX* tls;
  // Set before the workers run; read by them alone afterwards.
  Nanos began = 0;
  // When to stop making calls. Lowered by the main thread to end the run early, read by workers in every turn of their
  // loop; relaxed, since nothing else depends on it.
  std::atomic<Nanos> end{0};
};

}  // namespace smt::loadgen
