#include "service.h"

#include "answer.h"
#include "missing_scenario.h"
#include "multi_predict_call.h"
#include "names.h"
#include "predict_call.h"
#include "scenario_message.h"
#include "version.h"
#include "wire_limits.h"

namespace smt::server {

void PredictionMethods::add_to(rpc::Methods& methods) {
  const std::string path = std::string("/") + kService + "/";
  methods[path + "Predict"] = scoring_method<PredictCall>(state_);
  methods[path + "MultiPredict"] = scoring_method<MultiPredictCall>(state_);
  methods[path + "ListScenarios"] = answering<v1::ListScenariosRequest, v1::ListScenariosResponse>(
      [this](const auto&, auto& out) { return list(out); });
  methods[path + "GetScenario"] = answering<v1::GetScenarioRequest, v1::ScenarioMetadata>(
      [this](const auto& in, auto& out) { return describe(in.scenario(), out); });
  methods[path + "GetServer"] =
      answering<v1::GetServerRequest, v1::ServerMetadata>([this](const auto&, auto& out) { return describe(out); });
}

grpc::Status PredictionMethods::list(v1::ListScenariosResponse& response) const {
  auto versions = state_.lifecycle.all();
  for (const ScenarioStatus& status : state_.store.list()) {
    fill_status(status, versions[status.scenario], *response.add_scenarios());
  }
  return grpc::Status::OK;
}

grpc::Status PredictionMethods::describe(const std::string& scenario, v1::ScenarioMetadata& response) const {
  auto snapshot = state_.store.find(scenario);
  if (!snapshot) {
    MissingScenario missing = describe_missing(state_, scenario);
    auto code = missing.unknown ? grpc::StatusCode::NOT_FOUND : grpc::StatusCode::UNAVAILABLE;
    return {code, shortened(missing.message)};
  }
  response.set_scenario(snapshot->scenario);
  response.set_version(snapshot->version);
  response.set_template_name(snapshot->source.name);
  response.set_template_version(snapshot->source.version);
  for (const transform::InputInfo& input : snapshot->features.inputs()) {
    v1::InputMetadata* out = response.add_inputs();
    out->set_name(input.name);
    out->set_type(input.type);
    out->set_required(input.required);
    out->set_multi_valued(input.multi_valued);
  }
  for (const Task& task : snapshot->tasks) response.add_tasks(task.name);
  return grpc::Status::OK;
}

grpc::Status PredictionMethods::describe(v1::ServerMetadata& response) const {
  response.set_version(kVersion);
  response.set_max_rows(static_cast<int32_t>(state_.options.max_rows));
  response.set_max_message_bytes(state_.options.max_message_bytes);
  response.set_max_fields(wire_limits(state_.options.max_rows).fields);
  response.set_workers(state_.options.workers);
  response.set_kernels(state_.options.kernels);
  response.set_resident_bytes(state_.lifecycle.resident_bytes());
  response.set_memory_limit(state_.options.memory_limit);
  for (const auto& binary : state_.binaries.list()) {
    v1::TemplateBinary* out = response.add_binaries();
    out->set_template_name(binary->manifest().source.name);
    out->set_template_version(binary->manifest().source.version);
    out->set_abi_hash(binary->manifest().abi_hash);
    out->set_sha256(binary->manifest().model.sha256);
    out->set_precision(binary->manifest().precision);
  }
  return grpc::Status::OK;
}

}  // namespace smt::server
