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

grpc::ServerUnaryReactor* PredictionServiceImpl::Predict(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  // Deletes itself in OnDone(), which gRPC calls only after this function has returned the reactor.
  auto* call = new PredictCall(state_, *context, *request, *response);
  call->begin();
  return call;
}

grpc::ServerUnaryReactor* PredictionServiceImpl::MultiPredict(grpc::CallbackServerContext* context,
                                                              const grpc::ByteBuffer* request,
                                                              grpc::ByteBuffer* response) {
  auto* call = new MultiPredictCall(state_, *context, *request, *response);
  call->begin();
  return call;
}

grpc::ServerUnaryReactor* PredictionServiceImpl::ListScenarios(grpc::CallbackServerContext* context,
                                                               const grpc::ByteBuffer* request,
                                                               grpc::ByteBuffer* response) {
  auto fill = [this](const v1::ListScenariosRequest&, v1::ListScenariosResponse& out) { return list(out); };
  return answer<v1::ListScenariosRequest, v1::ListScenariosResponse>(context, *request, *response, fill);
}

grpc::ServerUnaryReactor* PredictionServiceImpl::GetScenario(grpc::CallbackServerContext* context,
                                                             const grpc::ByteBuffer* request,
                                                             grpc::ByteBuffer* response) {
  auto fill = [this](const v1::GetScenarioRequest& in, v1::ScenarioMetadata& out) {
    return describe(in.scenario(), out);
  };
  return answer<v1::GetScenarioRequest, v1::ScenarioMetadata>(context, *request, *response, fill);
}

grpc::ServerUnaryReactor* PredictionServiceImpl::GetServer(grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  auto fill = [this](const v1::GetServerRequest&, v1::ServerMetadata& out) { return describe(out); };
  return answer<v1::GetServerRequest, v1::ServerMetadata>(context, *request, *response, fill);
}

grpc::Status PredictionServiceImpl::list(v1::ListScenariosResponse& response) const {
  auto versions = state_.lifecycle.all();
  for (const ScenarioStatus& status : state_.store.list()) {
    fill_status(status, versions[status.scenario], *response.add_scenarios());
  }
  return grpc::Status::OK;
}

grpc::Status PredictionServiceImpl::describe(const std::string& scenario, v1::ScenarioMetadata& response) const {
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

grpc::Status PredictionServiceImpl::describe(v1::ServerMetadata& response) const {
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
