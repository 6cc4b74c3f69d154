#include "infer_stream.h"

#include <utility>

#include "answer.h"
#include "infer_call.h"
#include "names.h"

namespace smt::server {
namespace {

using inference::ModelInferResponse;
using inference::ModelStreamInferResponse;

// Clients of streams with several answers per request look for it; here there is one.
constexpr const char* kFinal = "triton_final_response";

}  // namespace

StreamedCall::StreamedCall(ServerState& state, std::shared_ptr<rpc::Stream> stream, std::shared_ptr<InferStream> calls,
                           size_t bytes)
    : MessageCall(state, std::move(stream), bytes), calls_(std::move(calls)), message_bytes_(bytes) {}

void StreamedCall::send(google::protobuf::Message& message) noexcept {
  auto& answer = *google::protobuf::Arena::CreateMessage<ModelStreamInferResponse>(&arena_);
  auto& response = static_cast<ModelInferResponse&>(message);  // on arena_ as well
  (*response.mutable_parameters())[kFinal].set_bool_param(true);
  answer.unsafe_arena_set_allocated_infer_response(&response);
  reply(answer);
}

// Statuses are of calls, and this call goes on: the text has to say it all.
void StreamedCall::send(const Failure& failure) noexcept {
  auto& answer = *google::protobuf::Arena::CreateMessage<ModelStreamInferResponse>(&arena_);
  std::string_view code = kOutcomeNames[static_cast<size_t>(failure.outcome)];
  answer.set_error_message(shortened(std::string(code).append(": ").append(failure.message)));
  answer.mutable_infer_response()->set_id(std::string(request_id_));
  reply(answer);
}

void StreamedCall::reply(const ModelStreamInferResponse& message) noexcept {
  response_ = framed(message);
  const std::shared_ptr<InferStream> calls = calls_;  // which may free this call
  calls->answered(*this);
}

rpc::Method InferStream::method(ServerState& state) {
  return {.streaming = true, .open = [&state](const std::shared_ptr<rpc::Stream>& stream) {
            auto calls = std::make_shared<InferStream>(state, stream);
            stream->read();
            return calls;
          }};
}

InferStream::InferStream(ServerState& state, std::shared_ptr<rpc::Stream> stream)
    : state_(state), stream_(std::move(stream)) {}

void InferStream::message(grpc::ByteBuffer bytes) {
  std::shared_ptr<StreamedCall> call(new InferCall<StreamedCall>(state_, stream_, shared_from_this(), bytes.Length()),
                                     &MessageCall::end);
  bool broken = false;
  Step step;
  {
    std::lock_guard lock(mutex_);
    reading_ = false;
    broken = broken_;
    bytes_ += call->message_bytes_;
    calls_.push_back(call);
    next(step);
  }
  take(step);
  if (broken) call->cancel();
  call->begin(std::move(bytes));
}

void InferStream::ended() {
  Step step;
  {
    std::lock_guard lock(mutex_);
    reading_ = false;
    ended_ = true;
    next(step);
  }
  take(step);
}

void InferStream::written(bool sent) {
  Step step;
  {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!sent) broken_ = true;
    pop(step.gone);
    next(step);
  }
  take(step);
}

void InferStream::cancelled() {
  Calls calls;
  Step step;
  {
    std::lock_guard lock(mutex_);
    broken_ = true;
    reading_ = false;  // nothing comes any more
    calls = calls_;
    next(step);
  }
  for (const auto& call : calls) call->cancel();
  take(step);
}

void InferStream::answered(StreamedCall& call) noexcept {
  Step step;
  {
    std::lock_guard lock(mutex_);
    call.answered_ = true;
    next(step);
  }
  take(step);
}

void InferStream::pop(Calls& gone) {
  bytes_ -= calls_.front()->message_bytes_;
  gone.push_back(std::move(calls_.front()));
  calls_.pop_front();
}

void InferStream::next(Step& step) {
  while (!writing_ && !calls_.empty() && calls_.front()->answered_) {
    if (broken_) {
      pop(step.gone);
    } else {
      writing_ = true;
      step.write = calls_.front();
    }
  }
  const bool room = calls_.size() < kMostUnanswered && bytes_ < static_cast<size_t>(state_.options.max_message_bytes);
  const bool over = ended_ || broken_;
  if (!reading_ && !over && room) reading_ = step.read = true;
  if (over && !reading_ && !writing_ && calls_.empty() && !finished_) finished_ = step.finish = true;
}

void InferStream::take(const Step& step) {
  if (step.write) stream_->write(std::move(step.write->response_));
  if (step.read) stream_->read();
  if (step.finish) stream_->finish(grpc::Status::OK);  // of a broken one nobody hears
}

}  // namespace smt::server
