// What the service's calls share. Owned by Server; outlives every call.
#pragma once

#include <atomic>

#include "access_log.h"
#include "binary_cache.h"
#include "inflight_gate.h"
#include "lifecycle.h"
#include "metrics.h"
#include "options.h"
#include "scenario_store.h"
#include "scheduler.h"
#include "shadow_scorer.h"

namespace smt::server {

struct ServerState {
  const Options& options;
  ScenarioStore& store;
  const Lifecycle& lifecycle;
  BinaryCache& binaries;
  Scheduler& scheduler;
  ShadowScorer& shadows;
  Metrics& metrics;
  const AccessLog& access_log;
  // Open until the drain begins; every scoring call is inside from admission until its answer is sent.
  InflightGate gate{};
  // False until the first pass over the registry ended: until then an unknown scenario may only not be loaded yet.
  // Set once by the main thread. Calls read it to choose an answer; no other memory is published through it.
  std::atomic<bool> ready{false};
};

}  // namespace smt::server
