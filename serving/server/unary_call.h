// A scoring call of a unary gRPC method in its raw (ByteBuffer) form.
//
// Raw for two reasons: a message that does not parse becomes INVALID_ARGUMENT (gRPC's own path says UNIMPLEMENTED), and
// the request lives on an arena of the call.
#pragma once

#include <google/protobuf/arena.h>
#include <grpcpp/grpcpp.h>

#include <string>
#include <string_view>

#include "scoring_call.h"
#include "wire_scan.h"

namespace smt::server {

// When a call has to be answered, from what the client sent.
Work::Clock::time_point steady_deadline(std::chrono::system_clock::time_point deadline);

grpc::StatusCode status_code(Outcome outcome);

// The first field of a message, if it is a string with number 1, as scenario and model names are where they are alone;
// empty when it is not, or not in one piece. A view of the buffer's memory.
std::string_view first_text(const grpc::ByteBuffer& bytes);

// Deletes itself in OnDone(). Every path calls Finish() exactly once.
class UnaryCall : public grpc::ServerUnaryReactor, public ScoringCall {
 public:
  // `request` and `response` are gRPC's and live until OnDone().
  UnaryCall(ServerState& state, grpc::CallbackServerContext& context, const grpc::ByteBuffer& request,
            grpc::ByteBuffer& response);

  // Instead of start(): refuses when the server drains.
  void begin();

  void OnCancel() override { cancel(); }
  void OnDone() override;
  // Not of gRPC's public interface, and so checked by `override`: reactions run on gRPC's own threads instead of being
  // handed to another one, which costs a wake-up per call. OnCancel() and OnDone() do not block.
  bool InternalInlineable() override { return true; }

 protected:
  void refuse(const Failure& failure) noexcept override;
  std::string trace_parent() const override;

  // Looks at a large message of smt.v1 before it is parsed; throws Failure.
  void scan(RequestKind kind) const;
  // Parses the request onto the arena; throws Failure.
  void parse(google::protobuf::Message& message);
  // Sends `message` with OK, or says why it cannot be encoded.
  void send(const google::protobuf::Message& message) noexcept;
  // Sends a failure that is accounted for already.
  void send(const Failure& failure) noexcept;

  const grpc::ByteBuffer& request_bytes_;
  google::protobuf::Arena arena_;

 private:
  grpc::CallbackServerContext& server_context_;
  grpc::ByteBuffer& response_bytes_;
  bool entered_ = false;  // inside the gate
};

}  // namespace smt::server
