#include "inference_service.h"

#include <memory>

#include "answer.h"
#include "infer_call.h"
#include "infer_stream.h"
#include "inference_messages.h"
#include "missing_scenario.h"
#include "names.h"
#include "unary_call.h"

namespace smt::server {
namespace {

using Reactor = grpc::ServerUnaryReactor*;
using Context = grpc::CallbackServerContext*;
using Bytes = grpc::ByteBuffer*;
using grpc::Status;

// Loading and unloading is for operators, on a listener of their own.
Status denied(const std::string& method) {
  return {grpc::StatusCode::PERMISSION_DENIED,
          method + ": not on the data port; call it on the server's control listener"};
}

}  // namespace

Reactor InferenceServiceImpl::ServerLive(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto fill = [](const inference::ServerLiveRequest&, inference::ServerLiveResponse& response) {
    response.set_live(true);
    return Status::OK;
  };
  return answer<inference::ServerLiveRequest, inference::ServerLiveResponse>(context, *in, *out, fill);
}

Reactor InferenceServiceImpl::ServerReady(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto fill = [this](const inference::ServerReadyRequest&, inference::ServerReadyResponse& response) {
    response.set_ready(ready());
    return Status::OK;
  };
  return answer<inference::ServerReadyRequest, inference::ServerReadyResponse>(context, *in, *out, fill);
}

Reactor InferenceServiceImpl::ModelReady(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto fill = [this](const inference::ModelReadyRequest& request, inference::ModelReadyResponse& response) {
    Status ignored;  // what does not exist is not ready
    response.set_ready(ready() && find(request.name(), request.version(), ignored) != nullptr);
    return Status::OK;
  };
  return answer<inference::ModelReadyRequest, inference::ModelReadyResponse>(context, *in, *out, fill);
}

Reactor InferenceServiceImpl::ModelInfer(Context context, const grpc::ByteBuffer* in, Bytes out) {
  // Deletes itself in OnDone(), which gRPC calls only after this function has returned the reactor.
  auto* call = new InferCall<UnaryCall>(state_, *context, *in, *out);
  call->begin();
  return call;
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* InferenceServiceImpl::ModelStreamInfer(Context context) {
  return new InferStream(state_, *context);
}

Reactor InferenceServiceImpl::ServerMetadata(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto make = [](const inference::ServerMetadataRequest&, inference::ServerMetadataResponse& response) {
    fill(response);
    return Status::OK;
  };
  return answer<inference::ServerMetadataRequest, inference::ServerMetadataResponse>(context, *in, *out, make);
}

Reactor InferenceServiceImpl::ModelMetadata(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto make = [this](const inference::ModelMetadataRequest& request, inference::ModelMetadataResponse& response) {
    Status status;
    if (auto snapshot = find(request.name(), request.version(), status)) fill(*snapshot, response);
    return status;
  };
  return answer<inference::ModelMetadataRequest, inference::ModelMetadataResponse>(context, *in, *out, make);
}

Reactor InferenceServiceImpl::ModelConfig(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto make = [this](const inference::ModelConfigRequest& request, inference::ModelConfigResponse& response) {
    Status status;
    if (auto snapshot = find(request.name(), request.version(), status)) fill(*snapshot, *response.mutable_config());
    return status;
  };
  return answer<inference::ModelConfigRequest, inference::ModelConfigResponse>(context, *in, *out, make);
}

Reactor InferenceServiceImpl::ModelStatistics(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto make = [this](const inference::ModelStatisticsRequest& request, inference::ModelStatisticsResponse& response) {
    return statistics(request, response);
  };
  return answer<inference::ModelStatisticsRequest, inference::ModelStatisticsResponse>(context, *in, *out, make);
}

Reactor InferenceServiceImpl::RepositoryIndex(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto make = [this](const inference::RepositoryIndexRequest& request, inference::RepositoryIndexResponse& response) {
    fill(state_.store.list(), request.ready(), response);
    return Status::OK;
  };
  return answer<inference::RepositoryIndexRequest, inference::RepositoryIndexResponse>(context, *in, *out, make);
}

Reactor InferenceServiceImpl::RepositoryModelLoad(Context context, const grpc::ByteBuffer*, Bytes) {
  return answered(context, denied("RepositoryModelLoad"));
}

Reactor InferenceServiceImpl::RepositoryModelUnload(Context context, const grpc::ByteBuffer*, Bytes) {
  return answered(context, denied("RepositoryModelUnload"));
}

grpc::Status InferenceServiceImpl::statistics(const inference::ModelStatisticsRequest& request,
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

bool InferenceServiceImpl::ready() const {
  return state_.ready.load(std::memory_order_relaxed) && !state_.gate.closed();
}

std::shared_ptr<const LoadedSnapshot> InferenceServiceImpl::find(const std::string& model, const std::string& version,
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
