// What the methods of inference.GRPCInferenceService answer that do not score: on both ports the same.
#pragma once

#include <grpcpp/support/status.h>

#include <memory>
#include <string>

#include "inference/grpc_service.pb.h"
#include "rpc/stream.h"
#include "server_state.h"

namespace smt::server {

// Thread-safe. Answers from what is in memory.
class InferenceMethods {
 public:
  static constexpr const char* kService = "inference.GRPCInferenceService";
  using Status = grpc::Status;

  // `state` outlives it.
  explicit InferenceMethods(ServerState& state) : state_(state) {}

  // All methods, for the data port: those that change the repository are denied there. They refer to this object.
  void add_to(rpc::Methods& methods);

  Status answer(const inference::ServerLiveRequest& request, inference::ServerLiveResponse& response) const;
  Status answer(const inference::ServerReadyRequest& request, inference::ServerReadyResponse& response) const;
  Status answer(const inference::ModelReadyRequest& request, inference::ModelReadyResponse& response) const;
  Status answer(const inference::ServerMetadataRequest& request, inference::ServerMetadataResponse& response) const;
  Status answer(const inference::ModelMetadataRequest& request, inference::ModelMetadataResponse& response) const;
  Status answer(const inference::ModelConfigRequest& request, inference::ModelConfigResponse& response) const;
  Status answer(const inference::ModelStatisticsRequest& request, inference::ModelStatisticsResponse& response) const;
  Status answer(const inference::RepositoryIndexRequest& request, inference::RepositoryIndexResponse& response) const;

 private:
  bool ready() const;
  // The snapshot that a method is asked about: of the scenario, in that version unless it is empty. If there is none,
  // `status` says why.
  std::shared_ptr<const LoadedSnapshot> find(const std::string& model, const std::string& version,
                                             Status& status) const;

  ServerState& state_;
};

// The status of a method that is called on the wrong port: `where` is the right one.
grpc::Status denied(const char* method, const char* where);

}  // namespace smt::server
