// A scoring call whose request is one message of a call to the data port.
//
// The message stays as its bytes for two reasons: one that does not parse becomes INVALID_ARGUMENT, and the request
// lives on an arena of the call.
#pragma once

#include <google/protobuf/arena.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <string>
#include <string_view>

#include "kept_message.h"
#include "rpc/stream.h"
#include "scoring_call.h"

namespace smt::server {

grpc::StatusCode status_code(Outcome outcome);

class MessageCall : public ScoringCall {
 public:
  // `bytes`: of the message, as far as it is known.
  MessageCall(ServerState& state, std::shared_ptr<rpc::Stream> stream, size_t bytes);

  // Instead of start(): refuses when the server drains.
  void begin(grpc::ByteBuffer bytes);
  // The message is not here yet, but its first bytes are: true if they are enough to refuse it, which is done then.
  bool refused_early(std::string_view beginning) noexcept;
  // Instead of delete.
  static void end(MessageCall* call);

 protected:
  // Sends `message`, which lies on arena_, with OK, or says why it cannot be encoded.
  virtual void send(google::protobuf::Message& message) noexcept = 0;
  // Sends a failure that is accounted for already.
  virtual void send(const Failure& failure) noexcept = 0;

  void refuse(const Failure& failure) noexcept override;
  std::string trace_parent() const override;
  virtual MessageKind kind() const = 0;
  std::unique_ptr<AnsweredRequest> keep() const override;

  // Takes the columns and what lies on the arena by now into bytes_.
  void count_memory() {
    bytes_ = request_bytes_.Length() + arena_.SpaceAllocated() +
             (context_.capacity() + candidates_.capacity()) * sizeof(transform::Column);
  }

  const std::shared_ptr<rpc::Stream> stream_;
  grpc::ByteBuffer request_bytes_;
  google::protobuf::Arena arena_;

 private:
  bool entered_ = false;  // inside the gate
};

}  // namespace smt::server
