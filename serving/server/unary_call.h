// A scoring call of a unary method.
#pragma once

#include "message_call.h"

namespace smt::server {

// Deletes itself in OnDone(). Every path calls Finish() exactly once.
class UnaryCall : public grpc::ServerUnaryReactor, public MessageCall {
 public:
  // `request` and `response` are gRPC's and live until OnDone().
  UnaryCall(ServerState& state, grpc::CallbackServerContext& context, const grpc::ByteBuffer& request,
            grpc::ByteBuffer& response)
      : MessageCall(state, context, request), response_bytes_(response) {}

  void OnCancel() override { cancel(); }
  void OnDone() override { end(this); }
  // Not of gRPC's public interface, and so checked by `override`: reactions run on gRPC's own threads instead of being
  // handed to another one, which costs a wake-up per call. OnCancel() and OnDone() do not block.
  bool InternalInlineable() override { return true; }

 protected:
  void send(google::protobuf::Message& message) noexcept override;
  void send(const Failure& failure) noexcept override;

 private:
  grpc::ByteBuffer& response_bytes_;
};

}  // namespace smt::server
