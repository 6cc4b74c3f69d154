// inference.GRPCInferenceService, the Open Inference Protocol. Proto-facing: includes no torch header.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "control_call.h"
#include "inference/grpc_service.grpc.pb.h"
#include "server_state.h"

namespace smt::server {

// Thread-safe, as gRPC calls it from many threads. All methods in the raw (ByteBuffer) form, so that a message that
// does not parse is INVALID_ARGUMENT. What is not about scoring answers on gRPC's thread from what is in memory.
class InferenceServiceImpl final
    : public inference::GRPCInferenceService::WithRawCallbackMethod_ServerLive<
          inference::GRPCInferenceService::WithRawCallbackMethod_ServerReady<
              inference::GRPCInferenceService::WithRawCallbackMethod_ModelReady<
                  inference::GRPCInferenceService::WithRawCallbackMethod_ModelInfer<
                      inference::GRPCInferenceService::WithRawCallbackMethod_ModelStreamInfer<
                          inference::GRPCInferenceService::WithRawCallbackMethod_ServerMetadata<
                              inference::GRPCInferenceService::WithRawCallbackMethod_ModelMetadata<
                                  inference::GRPCInferenceService::WithRawCallbackMethod_ModelConfig<
                                      inference::GRPCInferenceService::WithRawCallbackMethod_ModelStatistics<
                                          inference::GRPCInferenceService::WithRawCallbackMethod_RepositoryIndex<
                                              inference::GRPCInferenceService::
                                                  WithRawCallbackMethod_RepositoryModelLoad<
                                                      inference::GRPCInferenceService::
                                                          WithRawCallbackMethod_RepositoryModelUnload<
                                                              inference::GRPCInferenceService::Service>>>>>>>>>>>> {
 public:
  // `plane`: of the control listener, where every call is authenticated and logged, repositories change and nothing is
  // scored. Null: the data port, where it is the other way round. Both outlive every call.
  InferenceServiceImpl(ServerState& state, ControlPlane* plane) : state_(state), plane_(plane) {}

  using Context = grpc::CallbackServerContext*;
  using Bytes = grpc::ByteBuffer*;
  using Reactor = grpc::ServerUnaryReactor*;

  Reactor ServerLive(Context context, const grpc::ByteBuffer* request, Bytes response) override;
  Reactor ServerReady(Context context, const grpc::ByteBuffer* request, Bytes response) override;
  Reactor ModelReady(Context context, const grpc::ByteBuffer* request, Bytes response) override;
  Reactor ModelInfer(Context context, const grpc::ByteBuffer* request, Bytes response) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ModelStreamInfer(Context context) override;
  Reactor ServerMetadata(Context context, const grpc::ByteBuffer* request, Bytes response) override;
  Reactor ModelMetadata(Context context, const grpc::ByteBuffer* request, Bytes response) override;
  Reactor ModelConfig(Context context, const grpc::ByteBuffer* request, Bytes response) override;
  Reactor ModelStatistics(Context context, const grpc::ByteBuffer* request, Bytes response) override;
  Reactor RepositoryIndex(Context context, const grpc::ByteBuffer* request, Bytes response) override;
  Reactor RepositoryModelLoad(Context context, const grpc::ByteBuffer* request, Bytes response) override;
  Reactor RepositoryModelUnload(Context context, const grpc::ByteBuffer* request, Bytes response) override;

 private:
  // A method that answers at once: `fill` makes the response, and its status.
  template <typename Request, typename Response, typename Fill>
  Reactor respond(Context context, const char* method, const grpc::ByteBuffer& in, grpc::ByteBuffer& out, Fill fill);

  bool ready() const;
  // The snapshot that a method is asked about: of the scenario, in that version unless it is empty. If there is none,
  // `status` says why.
  std::shared_ptr<const LoadedSnapshot> find(const std::string& model, const std::string& version,
                                             grpc::Status& status) const;
  grpc::Status statistics(const inference::ModelStatisticsRequest& request,
                          inference::ModelStatisticsResponse& response) const;

  ServerState& state_;
  ControlPlane* const plane_;
};

}  // namespace smt::server
