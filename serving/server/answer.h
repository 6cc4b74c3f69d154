// Methods that answer at once, from what is in memory.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "names.h"
#include "parse_message.h"
#include "rpc/stream.h"

namespace smt::server {

// For Stream::write() and reply(). `message` takes less than 2 GiB, which none of ours comes near.
inline std::string framed(const google::protobuf::MessageLite& message) {
  const size_t size = message.ByteSizeLong();
  std::string out = rpc::message_prefix(size);
  const size_t prefix = out.size();
  out.resize(prefix + size);
  message.SerializeWithCachedSizesToArray(reinterpret_cast<uint8_t*>(out.data() + prefix));
  return out;
}

// Such a method on bytes: `fill` makes the response, and its status. A message that does not parse is
// INVALID_ARGUMENT, as in Predict; gRPC's own path says UNIMPLEMENTED.
template <typename Request, typename Response, typename Fill>
grpc::Status run_raw(const grpc::ByteBuffer& in, Response& out, Fill fill) {
  Request request;
  if (std::string error = parse_message(in, request); !error.empty()) {
    return {grpc::StatusCode::INVALID_ARGUMENT, shortened(error)};
  }
  return fill(request, out);
}

// A call of the data port that `run` answers on the thread that brings its message.
class AnsweredCall final : public rpc::Handler {
 public:
  using Run = std::function<grpc::Status(const grpc::ByteBuffer& in, std::string& framed)>;

  // `run` outlives it.
  AnsweredCall(std::shared_ptr<rpc::Stream> stream, const Run& run) : stream_(std::move(stream)), run_(run) {}

  void message(grpc::ByteBuffer bytes) override {
    std::string out;
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
  return answering(AnsweredCall::Run([fill = std::move(fill)](const grpc::ByteBuffer& in, std::string& out) {
    Response response;
    grpc::Status status = run_raw<Request>(in, response, fill);
    if (status.ok()) out = framed(response);
    return status;
  }));
}

}  // namespace smt::server
