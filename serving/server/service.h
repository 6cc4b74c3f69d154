// smt.v1.PredictionService. Proto-facing: includes no torch header.
#pragma once

#include <grpcpp/grpcpp.h>

#include "server_state.h"
#include "smt/v1/prediction.grpc.pb.h"

namespace smt::server {

// Thread-safe, as gRPC calls it from many threads. Predict and MultiPredict hand their work to the scheduler; the other
// methods answer on gRPC's thread from what is in memory. All of them in the raw (ByteBuffer) form, so that a message
// that does not parse is INVALID_ARGUMENT.
class PredictionServiceImpl final
    : public v1::PredictionService::WithRawCallbackMethod_Predict<
          v1::PredictionService::WithRawCallbackMethod_MultiPredict<
              v1::PredictionService::WithRawCallbackMethod_ListScenarios<
                  v1::PredictionService::WithRawCallbackMethod_GetScenario<
                      v1::PredictionService::WithRawCallbackMethod_GetServer<v1::PredictionService::Service>>>>> {
 public:
  explicit PredictionServiceImpl(ServerState& state) : state_(state) {}

  grpc::ServerUnaryReactor* Predict(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                    grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* MultiPredict(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* ListScenarios(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetScenario(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetServer(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                      grpc::ByteBuffer* response) override;

 private:
  grpc::Status list(v1::ListScenariosResponse& response) const;
  grpc::Status describe(const std::string& scenario, v1::ScenarioMetadata& response) const;
  grpc::Status describe(v1::ServerMetadata& response) const;

  ServerState& state_;
};

}  // namespace smt::server
