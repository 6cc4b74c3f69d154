// inference.GRPCInferenceService on the control listener, where repositories change. Proto-facing: includes no torch
// header.
#pragma once

#include <grpcpp/grpcpp.h>

#include "control_call.h"
#include "inference/grpc_service.grpc.pb.h"
#include "inference_methods.h"

namespace smt::server {

// Thread-safe, as gRPC calls it from many threads. All methods in the raw (ByteBuffer) form, so that a message that
// does not parse is INVALID_ARGUMENT. Every call is authenticated and logged; nothing is scored here.
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
  // Both outlive every call.
  InferenceServiceImpl(const InferenceMethods& methods, ControlPlane& plane) : methods_(methods), plane_(plane) {}

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
  // A method that answers at once.
  template <typename Request, typename Response>
  Reactor respond(Context context, const char* method, const grpc::ByteBuffer& in, grpc::ByteBuffer& out);

  const InferenceMethods& methods_;
  ControlPlane& plane_;
};

}  // namespace smt::server
