// A scoring call whose request is one message of a gRPC method in its raw (ByteBuffer) form.
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

  // Looks at a large message before it is parsed; throws Failure.
  void scan(RequestKind kind) const;
  // Parses the request onto the arena; throws Failure.
  void parse(google::protobuf::Message& message);
  // Takes what lies on the arena by now into bytes_.
  void count_memory() { bytes_ = request_bytes_.Length() + arena_.SpaceAllocated(); }

  grpc::CallbackServerContext& server_context_;
  const grpc::ByteBuffer& request_bytes_;
  google::protobuf::Arena arena_;

 private:
  bool entered_ = false;  // inside the gate
};

}  // namespace smt::server
