// smt.v1.PredictionService. Proto-facing: includes no torch header.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "rpc/stream.h"
#include "server_state.h"
#include "smt/v1/prediction.pb.h"

namespace smt::server {

// Thread-safe, as calls come on many threads. Predict and MultiPredict hand their work to the scheduler; the other
// methods answer at once from what is in memory. A message that does not parse is INVALID_ARGUMENT.
class PredictionMethods {
 public:
  static constexpr const char* kService = "smt.v1.PredictionService";

  // `state` outlives it.
  explicit PredictionMethods(ServerState& state) : state_(state) {}

  // The methods refer to this object.
  void add_to(rpc::Methods& methods);

 private:
  grpc::Status list(v1::ListScenariosResponse& response) const;
  grpc::Status describe(const std::string& scenario, v1::ScenarioMetadata& response) const;
  grpc::Status describe(v1::ServerMetadata& response) const;

  ServerState& state_;
};

}  // namespace smt::server
