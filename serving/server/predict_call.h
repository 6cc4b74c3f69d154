// One Predict call, from its parsed request to its answer.
#pragma once

#include <google/protobuf/arena.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "metrics.h"
#include "server_state.h"
#include "smt/v1/prediction.pb.h"
#include "snapshot.h"
#include "worker_pool.h"

namespace smt::server {

// Life: start() on a gRPC thread parses the request, resolves scenario, version and tasks, and queues itself; run() on
// a worker transforms, computes and answers; OnDone() deletes. Every path calls Finish() exactly once.
//
// The snapshot reference is taken once, in start(): validation, transformation and compute see one version, and the
// response names it.
//
// The raw (ByteBuffer) form of the method is used for two reasons: a message that does not parse becomes
// INVALID_ARGUMENT (gRPC's own path says UNIMPLEMENTED), and the request lives on an arena of the call.
class PredictCall final : public grpc::ServerUnaryReactor, public Job {
 public:
  // `state` outlives the call; `request` and `response` are gRPC's and live until OnDone().
  PredictCall(ServerState& state, grpc::CallbackServerContext& context, const grpc::ByteBuffer& request,
              grpc::ByteBuffer& response);

  void start();

  // Job, on a worker. After run() or drop() the call may be gone.
  void run() noexcept override;
  void drop(Drop reason) noexcept override;
  bool cancelled() const noexcept override { return cancelled_.load(std::memory_order_relaxed); }
  Clock::time_point deadline() const noexcept override { return deadline_; }
  size_t bytes() const noexcept override { return bytes_; }

  // gRPC's reactor.
  void OnCancel() override { cancelled_.store(true, std::memory_order_relaxed); }
  void OnDone() override;

 private:
  // An answer other than OK, with the text for the client.
  struct Failure {
    Outcome outcome;
    std::string message;
  };

  void admit();                                          // throws Failure
  void resolve_tasks();                                  // throws Failure
  void score();                                          // throws Failure, InputError, std::exception
  void fill_response(const std::vector<float>& scores);  // throws Failure
  void fail(const Failure& failure);
  void finish(Outcome outcome, const grpc::Status& status);

  ServerState& state_;
  const Clock::time_point arrived_ = Clock::now();
  Clock::time_point deadline_ = Clock::time_point::max();
  const grpc::ByteBuffer& request_bytes_;
  grpc::ByteBuffer& response_bytes_;
  size_t bytes_;  // of the message and, once parsed, of what it became
  google::protobuf::Arena arena_;
  v1::PredictRequest* request_;    // on arena_
  v1::PredictResponse* response_;  // on arena_
  ScenarioMetrics* metrics_;       // of the scenario, or of "_unknown"
  std::shared_ptr<const LoadedSnapshot> snapshot_;
  std::vector<const Task*> tasks_;  // to return, in order; they belong to snapshot_
  bool entered_ = false;            // inside the gate
  // Set by gRPC when the client goes away or the deadline passes, read by the pool; guards no other memory.
  std::atomic<bool> cancelled_{false};
};

}  // namespace smt::server
