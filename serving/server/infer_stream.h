// inference.GRPCInferenceService/ModelStreamInfer: requests on one stream, scored at once, answered in their order.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>

#include "inference/grpc_service.pb.h"
#include "message_call.h"

namespace smt::server {

class InferStream;

// Constructed before the call that refers to it.
struct StreamedBytes {
  grpc::ByteBuffer bytes;
};

// One request of a stream. Every path hands its answer to the stream exactly once.
class StreamedCall : private StreamedBytes, public MessageCall {
 public:
  // `bytes` is taken over. The stream keeps the call until its answer is sent.
  StreamedCall(ServerState& state, grpc::CallbackServerContext& context, InferStream& stream, grpc::ByteBuffer& bytes);

 protected:
  void send(google::protobuf::Message& message) noexcept override;
  void send(const Failure& failure) noexcept override;

 private:
  friend class InferStream;
  void reply(const inference::ModelStreamInferResponse& message) noexcept;

  InferStream& stream_;
  grpc::ByteBuffer response_;
  bool answered_ = false;  // guarded by the stream's mutex; orders response_ as well
};

// Deletes itself in OnDone(), which comes after every call of it was answered.
class InferStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // Not read further than this (or than --max-message-bytes) ahead of the answers, so that a stream holds a bounded
  // amount of memory: the client's sending stops instead.
  static constexpr size_t kMostUnanswered = 64;

  // `state` and `context` outlive the stream.
  InferStream(ServerState& state, grpc::CallbackServerContext& context);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  friend class StreamedCall;
  using Calls = std::deque<std::shared_ptr<StreamedCall>>;

  // What is to be done once the lock is released. While any of it is outstanding the stream lives: it finishes only
  // when nothing is being read, written or scored.
  struct Step {
    StreamedCall* write = nullptr;
    bool read = false;
    bool finish = false;
    grpc::Status status;
    Calls gone;  // to be freed
  };

  void answered(StreamedCall& call) noexcept;  // by the call, on any thread, once
  void next(Step& step);                       // requires mutex_
  void pop(Calls& gone);                       // requires mutex_: the first of calls_
  void take(Step step);                        // without the lock; the stream may be gone afterwards

  ServerState& state_;
  grpc::CallbackServerContext& context_;
  grpc::ByteBuffer read_;  // gRPC's while reading_

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
