#include "inference_methods.h"

#include <vector>

#include "answer.h"
#include "infer_call.h"
#include "infer_stream.h"
#include "inference_messages.h"
#include "missing_scenario.h"
#include "names.h"
#include "unary_call.h"

namespace smt::server {
namespace {

using grpc::Status;

constexpr const char* kControl = "the server's control listener (--control-port)";

template <typename Request, typename Response>
rpc::Method method(const InferenceMethods& methods) {
  return answering<Request, Response>(
      [&methods](const Request& request, Response& response) { return methods.answer(request, response); });
}

rpc::Method denying(const char* name) {
  return answering(AnsweredCall::Run([name](const grpc::ByteBuffer&, std::string&) { return denied(name, kControl); }));
}

}  // namespace

Status denied(const char* method, const char* where) {
  return {grpc::StatusCode::PERMISSION_DENIED, std::string(method) + ": not here; call it on " + where};
}

void InferenceMethods::add_to(rpc::Methods& methods) {
  using namespace inference;
  const std::string path = std::string("/") + kService + "/";
  methods[path + "ModelInfer"] = scoring_method<InferCall<UnaryCall>>(state_);
  methods[path + "ModelStreamInfer"] = InferStream::method(state_);
  methods[path + "ServerLive"] = method<ServerLiveRequest, ServerLiveResponse>(*this);
  methods[path + "ServerReady"] = method<ServerReadyRequest, ServerReadyResponse>(*this);
  methods[path + "ModelReady"] = method<ModelReadyRequest, ModelReadyResponse>(*this);
  methods[path + "ServerMetadata"] = method<ServerMetadataRequest, ServerMetadataResponse>(*this);
  methods[path + "ModelMetadata"] = method<ModelMetadataRequest, ModelMetadataResponse>(*this);
  methods[path + "ModelConfig"] = method<ModelConfigRequest, ModelConfigResponse>(*this);
  methods[path + "ModelStatistics"] = method<ModelStatisticsRequest, ModelStatisticsResponse>(*this);
  methods[path + "RepositoryIndex"] = method<RepositoryIndexRequest, RepositoryIndexResponse>(*this);
  methods[path + "RepositoryModelLoad"] = denying("RepositoryModelLoad");
  methods[path + "RepositoryModelUnload"] = denying("RepositoryModelUnload");
}

Status InferenceMethods::answer(const inference::ServerLiveRequest&, inference::ServerLiveResponse& response) const {
  response.set_live(true);
  return Status::OK;
}

Status InferenceMethods::answer(const inference::ServerReadyRequest&, inference::ServerReadyResponse& response) const {
  response.set_ready(ready());
  return Status::OK;
}

Status InferenceMethods::answer(const inference::ModelReadyRequest& request,
                                inference::ModelReadyResponse& response) const {
  Status ignored;  // what does not exist is not ready
  response.set_ready(ready() && find(request.name(), request.version(), ignored) != nullptr);
  return Status::OK;
}

Status InferenceMethods::answer(const inference::ServerMetadataRequest&,
                                inference::ServerMetadataResponse& response) const {
  fill(response);
  return Status::OK;
}

Status InferenceMethods::answer(const inference::ModelMetadataRequest& request,
                                inference::ModelMetadataResponse& response) const {
  Status status;
  if (auto snapshot = find(request.name(), request.version(), status)) fill(*snapshot, response);
  return status;
}

Status InferenceMethods::answer(const inference::ModelConfigRequest& request,
                                inference::ModelConfigResponse& response) const {
  Status status;
  if (auto snapshot = find(request.name(), request.version(), status)) fill(*snapshot, *response.mutable_config());
  return status;
}

Status InferenceMethods::answer(const inference::RepositoryIndexRequest& request,
                                inference::RepositoryIndexResponse& response) const {
  fill(state_.store.list(), request.ready(), response);
  return Status::OK;
}

Status InferenceMethods::answer(const inference::ModelStatisticsRequest& request,
                                inference::ModelStatisticsResponse& response) const {
  std::vector<std::string> names{request.name()};
  if (request.name().empty()) {
    if (!request.version().empty()) {
      return {grpc::StatusCode::INVALID_ARGUMENT,
              "version: " + quote(request.version()) + " without a name; expected the name of a model as well"};
    }
    names = state_.store.names();
  }
  for (const std::string& name : names) {
    Status status;
    auto snapshot = find(name, request.version(), status);
    if (snapshot != nullptr) {
      fill(*snapshot, state_.metrics.find(name), *response.add_model_stats());
    } else if (!request.name().empty()) {
      return status;
    }
  }
  return Status::OK;
}

bool InferenceMethods::ready() const { return state_.ready.load(std::memory_order_relaxed) && !state_.gate.closed(); }

std::shared_ptr<const LoadedSnapshot> InferenceMethods::find(const std::string& model, const std::string& version,
                                                             grpc::Status& status) const {
  if (model.empty()) {
    status = {grpc::StatusCode::INVALID_ARGUMENT, "name: empty; expected the name of a model"};
    return nullptr;
  }
  auto snapshot = state_.store.find(model);
  if (snapshot == nullptr) {
    MissingScenario missing = describe_missing(state_, model);
    status = {missing.unknown ? grpc::StatusCode::NOT_FOUND : grpc::StatusCode::UNAVAILABLE,
              shortened(missing.message)};
    return nullptr;
  }
  if (version.empty() || version == snapshot->version) return snapshot;
  status = {grpc::StatusCode::NOT_FOUND, "version: " + quote(version) + " of model " + quote(model) +
                                             " is not being served; " + quote(snapshot->version) + " is"};
  return nullptr;
}

}  // namespace smt::server
