// A scoring call of a unary method.
#pragma once

#include <memory>
#include <utility>

#include "message_call.h"

namespace smt::server {

// Lives until it has answered, and its stream is closed. Every path answers exactly once.
class UnaryCall : public rpc::Handler, public MessageCall, public std::enable_shared_from_this<UnaryCall> {
 public:
  UnaryCall(ServerState& state, std::shared_ptr<rpc::Stream> stream)
      : MessageCall(state, stream, stream->message_bytes()) {}

  bool begun(std::string_view beginning) override { return refused_early(beginning); }
  void message(grpc::ByteBuffer bytes) override {
    self_ = shared_from_this();
    begin(std::move(bytes));
  }
  void cancelled() override { cancel(); }

 protected:
  void send(google::protobuf::Message& message) noexcept override;
  void send(const Failure& failure) noexcept override;

 private:
  std::shared_ptr<UnaryCall> self_;  // from the message to the answer
};

// The method that makes a `Call` of each of its calls.
template <class Call>
rpc::Method scoring_method(ServerState& state) {
  return {.open = [&state](const std::shared_ptr<rpc::Stream>& stream) {
    return std::shared_ptr<UnaryCall>(new Call(state, stream), &MessageCall::end);
  }};
}

}  // namespace smt::server
