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

Status denied(const char* method, const char* where) {
  return {grpc::StatusCode::PERMISSION_DENIED, std::string(method) + ": not here; call it on " + where};
}

constexpr const char* kControl = "the server's control listener (--control-port)";
constexpr const char* kData = "the server's data port (--port)";

using Parameters = google::protobuf::Map<std::string, inference::ModelRepositoryParameter>;

// What is wrong with the parameters of a repository method that knows one of the name `known`; empty: nothing.
std::string check(const Parameters& parameters, std::string_view known) {
  for (const auto& [name, value] : parameters) {
    if (name != known) return "parameter " + quote(name) + ": not supported; a model is served as it was published";
  }
  return "";
}

// A stream that ends before it begins.
class EndedStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit EndedStream(const Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

// A method that changes the repository, on the control listener; `known` is the parameter that it may have.
template <typename Request, typename Response>
Reactor change(ControlPlane* plane, Context context, const char* method, CommandVerb verb, const grpc::ByteBuffer& in,
               Bytes out, std::string_view known) {
  if (plane == nullptr) return answered(context, denied(method, kControl));
  auto* call = new ControlCall(*plane, *context, method);
  if (!call->admitted()) return call;
  Request request;
  std::string error = parse_message(in, request);
  if (error.empty()) error = check(request.parameters(), known);
  std::string version;
  if (verb == CommandVerb::kLoad && request.parameters().contains("version")) {
    version = request.parameters().at("version").string_param();
    if (error.empty() && version.empty()) error = "parameter 'version': expected a string_param that is not empty";
  }
  call->about(request.model_name(), version);
  if (!error.empty()) {
    call->answer({grpc::StatusCode::INVALID_ARGUMENT, shortened(error)});
  } else {
    call->command(verb, [out] {
      bool own_buffer = false;
      return grpc::SerializationTraits<Response>::Serialize(Response(), out, &own_buffer);
    });
  }
  return call;
}

}  // namespace

template <typename Request, typename Response, typename Fill>
Reactor InferenceServiceImpl::respond(Context context, const char* method, const grpc::ByteBuffer& in,
                                      grpc::ByteBuffer& out, Fill fill) {
  if (plane_ == nullptr) return answer<Request, Response>(context, in, out, fill);
  auto* call = new ControlCall(*plane_, *context, method);
  if (call->admitted()) call->answer(run_raw<Request, Response>(in, out, fill));
  return call;
}

Reactor InferenceServiceImpl::ServerLive(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto fill = [](const inference::ServerLiveRequest&, inference::ServerLiveResponse& response) {
    response.set_live(true);
    return Status::OK;
  };
  return respond<inference::ServerLiveRequest, inference::ServerLiveResponse>(context, "ServerLive", *in, *out, fill);
}

Reactor InferenceServiceImpl::ServerReady(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto fill = [this](const inference::ServerReadyRequest&, inference::ServerReadyResponse& response) {
    response.set_ready(ready());
    return Status::OK;
  };
  return respond<inference::ServerReadyRequest, inference::ServerReadyResponse>(context, "ServerReady", *in, *out,
                                                                                fill);
}

Reactor InferenceServiceImpl::ModelReady(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto fill = [this](const inference::ModelReadyRequest& request, inference::ModelReadyResponse& response) {
    Status ignored;  // what does not exist is not ready
    response.set_ready(ready() && find(request.name(), request.version(), ignored) != nullptr);
    return Status::OK;
  };
  return respond<inference::ModelReadyRequest, inference::ModelReadyResponse>(context, "ModelReady", *in, *out, fill);
}

Reactor InferenceServiceImpl::ModelInfer(Context context, const grpc::ByteBuffer* in, Bytes out) {
  if (plane_ != nullptr) return answered(context, denied("ModelInfer", kData));
  // Deletes itself in OnDone(), which gRPC calls only after this function has returned the reactor.
  auto* call = new InferCall<UnaryCall>(state_, *context, *in, *out);
  call->begin();
  return call;
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* InferenceServiceImpl::ModelStreamInfer(Context context) {
  if (plane_ != nullptr) return new EndedStream(denied("ModelStreamInfer", kData));
  return new InferStream(state_, *context);
}

Reactor InferenceServiceImpl::ServerMetadata(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto make = [](const inference::ServerMetadataRequest&, inference::ServerMetadataResponse& response) {
    fill(response);
    return Status::OK;
  };
  return respond<inference::ServerMetadataRequest, inference::ServerMetadataResponse>(context, "ServerMetadata", *in,
                                                                                      *out, make);
}

Reactor InferenceServiceImpl::ModelMetadata(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto make = [this](const inference::ModelMetadataRequest& request, inference::ModelMetadataResponse& response) {
    Status status;
    if (auto snapshot = find(request.name(), request.version(), status)) fill(*snapshot, response);
    return status;
  };
  return respond<inference::ModelMetadataRequest, inference::ModelMetadataResponse>(context, "ModelMetadata", *in, *out,
                                                                                    make);
}

Reactor InferenceServiceImpl::ModelConfig(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto make = [this](const inference::ModelConfigRequest& request, inference::ModelConfigResponse& response) {
    Status status;
    if (auto snapshot = find(request.name(), request.version(), status)) fill(*snapshot, *response.mutable_config());
    return status;
  };
  return respond<inference::ModelConfigRequest, inference::ModelConfigResponse>(context, "ModelConfig", *in, *out,
                                                                                make);
}

Reactor InferenceServiceImpl::ModelStatistics(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto make = [this](const inference::ModelStatisticsRequest& request, inference::ModelStatisticsResponse& response) {
    return statistics(request, response);
  };
  return respond<inference::ModelStatisticsRequest, inference::ModelStatisticsResponse>(context, "ModelStatistics", *in,
                                                                                        *out, make);
}

Reactor InferenceServiceImpl::RepositoryIndex(Context context, const grpc::ByteBuffer* in, Bytes out) {
  auto make = [this](const inference::RepositoryIndexRequest& request, inference::RepositoryIndexResponse& response) {
    fill(state_.store.list(), request.ready(), response);
    return Status::OK;
  };
  return respond<inference::RepositoryIndexRequest, inference::RepositoryIndexResponse>(context, "RepositoryIndex", *in,
                                                                                        *out, make);
}

Reactor InferenceServiceImpl::RepositoryModelLoad(Context context, const grpc::ByteBuffer* in, Bytes out) {
  return change<inference::RepositoryModelLoadRequest, inference::RepositoryModelLoadResponse>(
      plane_, context, "RepositoryModelLoad", CommandVerb::kLoad, *in, out, "version");
}

// Clients send unload_dependents always; no scenario depends on another.
Reactor InferenceServiceImpl::RepositoryModelUnload(Context context, const grpc::ByteBuffer* in, Bytes out) {
  return change<inference::RepositoryModelUnloadRequest, inference::RepositoryModelUnloadResponse>(
      plane_, context, "RepositoryModelUnload", CommandVerb::kUnload, *in, out, "unload_dependents");
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
