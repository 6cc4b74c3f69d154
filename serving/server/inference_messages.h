// What the Open Inference Protocol's methods tell about the server and its scenarios, from what is in memory.
#pragma once

#include <vector>

#include "inference/grpc_service.pb.h"
#include "metrics.h"
#include "scenario_store.h"
#include "snapshot.h"

namespace smt::server {

void fill(inference::ServerMetadataResponse& out);

// Inputs in the FeatureSpec's order, a number as FP64, which loses nothing, an int as INT64, a string as BYTES; one
// output FP32 per task. Shapes are [-1], or [-1, -1] where the input takes several values per row.
void fill(const LoadedSnapshot& snapshot, inference::ModelMetadataResponse& out);
void fill(const LoadedSnapshot& snapshot, inference::ModelConfig& out);

// The scenario's counters since the server started.
void fill(const LoadedSnapshot& snapshot, const ScenarioMetrics& metrics, inference::ModelStatistics& out);

// READY: the version being served. UNAVAILABLE: a version that was refused, and a scenario that serves nothing, with
// the reason. LOADING: a scenario whose first version is being loaded. `ready_only` leaves out all but the first.
void fill(const std::vector<ScenarioStatus>& scenarios, bool ready_only, inference::RepositoryIndexResponse& out);

}  // namespace smt::server
