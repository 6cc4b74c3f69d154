// inference.GRPCInferenceService/ModelStreamInfer: requests on one stream, scored at once, answered in their order.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "inference/grpc_service.pb.h"
#include "message_call.h"

namespace smt::server {

class InferStream;

// One request of a stream. Every path hands its answer to the stream exactly once.
class StreamedCall : public MessageCall {
 public:
  // `bytes`: of the message. The stream keeps the call until its answer is sent, and the call the stream.
  StreamedCall(ServerState& state, std::shared_ptr<rpc::Stream> stream, std::shared_ptr<InferStream> calls,
               size_t bytes);

 protected:
  void send(google::protobuf::Message& message) noexcept override;
  void send(const Failure& failure) noexcept override;

 private:
  friend class InferStream;
  void reply(const inference::ModelStreamInferResponse& message) noexcept;

  const std::shared_ptr<InferStream> calls_;
  const size_t message_bytes_;
  std::string response_;   // framed
  bool answered_ = false;  // guarded by the stream's mutex; orders response_ as well
};

// Lives while its call does, and while requests of it are scored.
class InferStream final : public rpc::Handler, public std::enable_shared_from_this<InferStream> {
 public:
  // Not read further than this (or than --max-message-bytes) ahead of the answers, so that a stream holds a bounded
  // amount of memory: the client's sending stops instead.
  static constexpr size_t kMostUnanswered = 64;

  // The method that makes one of each of its calls. `state` outlives them.
  static rpc::Method method(ServerState& state);
  InferStream(ServerState& state, std::shared_ptr<rpc::Stream> stream);

  void message(grpc::ByteBuffer bytes) override;
  void ended() override;
  void written(bool sent) override;
  void cancelled() override;

 private:
  friend class StreamedCall;
  using Calls = std::deque<std::shared_ptr<StreamedCall>>;

  // What is to be done once the lock is released.
  struct Step {
    std::shared_ptr<StreamedCall> write;
    bool read = false;
    bool finish = false;
    Calls gone;  // to be freed
  };

  void answered(StreamedCall& call) noexcept;  // by the call, on any thread, once
  void next(Step& step);                       // requires mutex_
  void pop(Calls& gone);                       // requires mutex_: the first of calls_
  void take(const Step& step);                 // without the lock

  ServerState& state_;
  const std::shared_ptr<rpc::Stream> stream_;

  std::mutex mutex_;  // guards all below; never held while a call is started, cancelled or freed
  Calls calls_;       // not answered, or answer not sent; in the order of their requests
  size_t bytes_ = 0;  // of their requests
  bool reading_ = true;
  bool writing_ = false;  // the first of calls_
  bool ended_ = false;    // the client sends no more
  bool broken_ = false;   // answers reach nobody any more
  bool finished_ = false;
};

}  // namespace smt::server
