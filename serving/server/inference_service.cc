#include "inference_service.h"

#include <grpcpp/impl/codegen/proto_utils.h>

#include <memory>

#include "answer.h"
#include "names.h"

namespace smt::server {
namespace {

using Reactor = grpc::ServerUnaryReactor*;
using Context = grpc::CallbackServerContext*;
using Bytes = grpc::ByteBuffer*;
using grpc::Status;

constexpr const char* kData = "the server's data port (--port)";

template <typename Message>
Status encoded(const Message& message, grpc::ByteBuffer& out) {
  bool own_buffer = false;
  return grpc::SerializationTraits<Message>::Serialize(message, &out, &own_buffer);
}

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
Reactor change(ControlPlane& plane, Context context, const char* method, CommandVerb verb, const grpc::ByteBuffer& in,
               Bytes out, std::string_view known) {
  auto* call = new ControlCall(plane, *context, method);
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
    call->command(verb, [out] { return encoded(Response(), *out); });
  }
  return call;
}

}  // namespace

template <typename Request, typename Response>
Reactor InferenceServiceImpl::respond(Context context, const char* method, const grpc::ByteBuffer& in,
                                      grpc::ByteBuffer& out) {
  auto* call = new ControlCall(plane_, *context, method);
  if (call->admitted()) {
    Response response;
    auto fill = [this](const Request& request, Response& filled) { return methods_.answer(request, filled); };
    Status status = run_raw<Request>(in, response, fill);
    call->answer(status.ok() ? encoded(response, out) : status);
  }
  return call;
}

Reactor InferenceServiceImpl::ServerLive(Context context, const grpc::ByteBuffer* in, Bytes out) {
  return respond<inference::ServerLiveRequest, inference::ServerLiveResponse>(context, "ServerLive", *in, *out);
}

Reactor InferenceServiceImpl::ServerReady(Context context, const grpc::ByteBuffer* in, Bytes out) {
  return respond<inference::ServerReadyRequest, inference::ServerReadyResponse>(context, "ServerReady", *in, *out);
}

Reactor InferenceServiceImpl::ModelReady(Context context, const grpc::ByteBuffer* in, Bytes out) {
  return respond<inference::ModelReadyRequest, inference::ModelReadyResponse>(context, "ModelReady", *in, *out);
}

Reactor InferenceServiceImpl::ServerMetadata(Context context, const grpc::ByteBuffer* in, Bytes out) {
  return respond<inference::ServerMetadataRequest, inference::ServerMetadataResponse>(context, "ServerMetadata", *in,
                                                                                      *out);
}

Reactor InferenceServiceImpl::ModelMetadata(Context context, const grpc::ByteBuffer* in, Bytes out) {
  return respond<inference::ModelMetadataRequest, inference::ModelMetadataResponse>(context, "ModelMetadata", *in,
                                                                                    *out);
}

Reactor InferenceServiceImpl::ModelConfig(Context context, const grpc::ByteBuffer* in, Bytes out) {
  return respond<inference::ModelConfigRequest, inference::ModelConfigResponse>(context, "ModelConfig", *in, *out);
}

Reactor InferenceServiceImpl::ModelStatistics(Context context, const grpc::ByteBuffer* in, Bytes out) {
  return respond<inference::ModelStatisticsRequest, inference::ModelStatisticsResponse>(context, "ModelStatistics", *in,
                                                                                        *out);
}

Reactor InferenceServiceImpl::RepositoryIndex(Context context, const grpc::ByteBuffer* in, Bytes out) {
  return respond<inference::RepositoryIndexRequest, inference::RepositoryIndexResponse>(context, "RepositoryIndex", *in,
                                                                                        *out);
}

Reactor InferenceServiceImpl::ModelInfer(Context context, const grpc::ByteBuffer*, Bytes) {
  Reactor reactor = context->DefaultReactor();
  reactor->Finish(denied("ModelInfer", kData));
  return reactor;
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* InferenceServiceImpl::ModelStreamInfer(Context) {
  return new EndedStream(denied("ModelStreamInfer", kData));
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

}  // namespace smt::server
