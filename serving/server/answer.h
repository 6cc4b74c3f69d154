// Methods that answer at once, from what is in memory.
#pragma once

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <memory>
#include <utility>

#include "names.h"
#include "parse_message.h"
#include "rpc/stream.h"

namespace smt::server {

template <class Message>
grpc::ByteBuffer serialized(const Message& message) {
  grpc::ByteBuffer bytes;
  bool own_buffer = false;
  // Fails for a message of 2 GiB alone, and none of ours comes near.
  static_cast<void>(grpc::SerializationTraits<Message>::Serialize(message, &bytes, &own_buffer));
  return bytes;
}

// Such a method on bytes: `fill` makes the response, and its status. A message that does not parse is
// INVALID_ARGUMENT, as in Predict; gRPC's own path says UNIMPLEMENTED.
template <typename Request, typename Response, typename Fill>
grpc::Status run_raw(const grpc::ByteBuffer& in, grpc::ByteBuffer& out, Fill fill) {
  Request request;
  if (std::string error = parse_message(in, request); !error.empty()) {
    return {grpc::StatusCode::INVALID_ARGUMENT, shortened(error)};
  }
  Response response;
  grpc::Status status = fill(request, response);
  if (status.ok()) out = serialized(response);
  return status;
}

// A call of the data port that `run` answers on the thread that brings its message.
class AnsweredCall final : public rpc::Handler {
 public:
  using Run = std::function<grpc::Status(const grpc::ByteBuffer& in, grpc::ByteBuffer& out)>;

  // `run` outlives it.
  AnsweredCall(std::shared_ptr<rpc::Stream> stream, const Run& run) : stream_(std::move(stream)), run_(run) {}

  void message(grpc::ByteBuffer bytes) override {
    grpc::ByteBuffer out;
    grpc::Status status = run_(bytes, out);
    if (status.ok()) return stream_->reply(std::move(out));
    stream_->finish(std::move(status));
  }

 private:
  const std::shared_ptr<rpc::Stream> stream_;
  const Run& run_;
};

inline rpc::Method answering(AnsweredCall::Run run) {
  auto shared = std::make_shared<AnsweredCall::Run>(std::move(run));
  return {.open = [shared](const std::shared_ptr<rpc::Stream>& stream) {
    return std::make_shared<AnsweredCall>(stream, *shared);
  }};
}

// The method of the data port that `fill` answers: Request and Response are deduced.
template <typename Request, typename Response>
rpc::Method answering(std::function<grpc::Status(const Request&, Response&)> fill) {
  return answering(AnsweredCall::Run([fill = std::move(fill)](const grpc::ByteBuffer& in, grpc::ByteBuffer& out) {
    return run_raw<Request, Response>(in, out, fill);
  }));
}

}  // namespace smt::server
