#include "inference_messages.h"

#include <algorithm>
#include <cmath>

#include "version.h"

namespace smt::server {
namespace {

constexpr const char* kPlatform = "smt";
constexpr int64_t kAnySize = -1;

struct TensorType {
  const char* name;
  inference::DataType type;
};

TensorType type_of(const transform::InputInfo& input) {
  if (input.type == "int") return {"INT64", inference::TYPE_INT64};
  if (input.type == "string") return {"BYTES", inference::TYPE_STRING};
  return {"FP64", inference::TYPE_FP64};
}

void set(inference::StatisticDuration& out, double count, double seconds) {
  out.set_count(static_cast<uint64_t>(count));
  out.set_ns(static_cast<uint64_t>(std::llround(seconds * 1e9)));
}

void set(inference::StatisticDuration& out, const prometheus::Histogram& histogram) {
  prometheus::ClientMetric::Histogram collected = histogram.Collect().histogram;
  set(out, static_cast<double>(collected.sample_count), collected.sample_sum);
}

}  // namespace

void fill(inference::ServerMetadataResponse& out) {
  out.set_name("smt-server");
  out.set_version(kVersion);
  for (const char* name : {"model_repository", "model_configuration", "parameters", "statistics"}) {
    out.add_extensions(name);
  }
}

void fill(const LoadedSnapshot& snapshot, inference::ModelMetadataResponse& out) {
  out.set_name(snapshot.scenario);
  out.add_versions(snapshot.version);
  out.set_platform(kPlatform);
  for (const transform::InputInfo& input : snapshot.features.inputs()) {
    auto& tensor = *out.add_inputs();
    tensor.set_name(input.name);
    tensor.set_datatype(type_of(input).name);
    tensor.add_shape(kAnySize);
    if (input.multi_valued) tensor.add_shape(kAnySize);
  }
  for (const Task& task : snapshot.tasks) {
    auto& tensor = *out.add_outputs();
    tensor.set_name(task.name);
    tensor.set_datatype("FP32");
    tensor.add_shape(kAnySize);
  }
}

void fill(const LoadedSnapshot& snapshot, inference::ModelConfig& out) {
  out.set_name(snapshot.scenario);
  out.set_platform(kPlatform);
  out.set_backend(kPlatform);
  for (const transform::InputInfo& input : snapshot.features.inputs()) {
    inference::ModelInput& tensor = *out.add_input();
    tensor.set_name(input.name);
    tensor.set_data_type(type_of(input).type);
    tensor.add_dims(kAnySize);
    if (input.multi_valued) tensor.add_dims(kAnySize);
    tensor.set_optional(!input.required);
  }
  for (const Task& task : snapshot.tasks) {
    inference::ModelOutput& tensor = *out.add_output();
    tensor.set_name(task.name);
    tensor.set_data_type(inference::TYPE_FP32);
    tensor.add_dims(kAnySize);
  }
}

void fill(const LoadedSnapshot& snapshot, const ScenarioMetrics& metrics, inference::ModelStatistics& out) {
  out.set_name(snapshot.scenario);
  out.set_version(snapshot.version);
  const double succeeded = metrics.requests[static_cast<size_t>(Outcome::kOk)]->Value();
  double failed = 0;
  for (size_t i = 0; i < metrics.requests.size(); ++i) {
    if (i != static_cast<size_t>(Outcome::kOk)) failed += metrics.requests[i]->Value();
  }
  const double failed_seconds = metrics.failed_seconds->Value();
  const double all_seconds = metrics.request_seconds->Collect().histogram.sample_sum;
  inference::InferStatistics& stats = *out.mutable_inference_stats();
  set(*stats.mutable_success(), succeeded, std::max(0.0, all_seconds - failed_seconds));
  set(*stats.mutable_fail(), failed, failed_seconds);
  set(*stats.mutable_queue(), *metrics.queue_seconds);
  set(*stats.mutable_compute_input(), *metrics.transform_seconds);
  set(*stats.mutable_compute_infer(), *metrics.compute_seconds);
  out.set_inference_count(static_cast<uint64_t>(metrics.rows->Value()));
  out.set_execution_count(static_cast<uint64_t>(succeeded));
}

void fill(const std::vector<ScenarioStatus>& scenarios, bool ready_only, inference::RepositoryIndexResponse& out) {
  auto add = [&](const ScenarioStatus& status, const std::string& version, const char* state,
                 const std::string& reason) {
    auto& model = *out.add_models();
    model.set_name(status.scenario);
    model.set_version(version);
    model.set_state(state);
    model.set_reason(reason);
  };
  for (const ScenarioStatus& status : scenarios) {
    if (!status.version.empty()) add(status, status.version, "READY", "");
    if (ready_only) continue;
    if (status.state == ScenarioState::kLoading) {
      add(status, "", "LOADING", "");
    } else if (status.state == ScenarioState::kUnloaded) {
      add(status, "", "UNAVAILABLE", "unloaded by an operator");
    } else if (!status.refused_reason.empty() || status.version.empty()) {
      add(status, status.refused_version, "UNAVAILABLE", status.refused_reason);
    }
  }
}

}  // namespace smt::server
