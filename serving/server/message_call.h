// A scoring call whose request is one message of a gRPC method in its raw (ByteBuffer) form.
//
// Raw for two reasons: a message that does not parse becomes INVALID_ARGUMENT (gRPC's own path says UNIMPLEMENTED), and
// the request lives on an arena of the call.
#pragma once

#include <google/protobuf/arena.h>
#include <grpcpp/grpcpp.h>

#include "scoring_call.h"

namespace smt::server {

// When a call has to be answered, from what the client sent.
Work::Clock::time_point steady_deadline(std::chrono::system_clock::time_point deadline);

grpc::StatusCode status_code(Outcome outcome);

class MessageCall : public ScoringCall {
 public:
  // `context` and `request` live as long as the call.
  MessageCall(ServerState& state, grpc::CallbackServerContext& context, const grpc::ByteBuffer& request);

  // Instead of start(): refuses when the server drains.
  void begin();
  // Instead of delete.
  static void end(MessageCall* call);

 protected:
  // Sends `message`, which lies on arena_, with OK, or says why it cannot be encoded.
  virtual void send(google::protobuf::Message& message) noexcept = 0;
  // Sends a failure that is accounted for already.
  virtual void send(const Failure& failure) noexcept = 0;

  void refuse(const Failure& failure) noexcept override;
  std::string trace_parent() const override;

  // Takes the columns and what lies on the arena by now into bytes_.
  void count_memory() {
    bytes_ = request_bytes_.Length() + arena_.SpaceAllocated() +
             (context_.capacity() + candidates_.capacity()) * sizeof(transform::Column);
  }

  grpc::CallbackServerContext& server_context_;
  const grpc::ByteBuffer& request_bytes_;
  google::protobuf::Arena arena_;

 private:
  bool entered_ = false;  // inside the gate
};

}  // namespace smt::server
