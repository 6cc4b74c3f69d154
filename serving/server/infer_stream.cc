#include "infer_stream.h"

#include <grpcpp/impl/codegen/proto_utils.h>

#include <utility>

#include "infer_call.h"
#include "names.h"

namespace smt::server {
namespace {

using inference::ModelInferResponse;
using inference::ModelStreamInferResponse;

// Clients of streams with several answers per request look for it; here there is one.
constexpr const char* kFinal = "triton_final_response";

StreamedBytes taken(grpc::ByteBuffer& bytes) {
  StreamedBytes out;
  out.bytes.Swap(&bytes);
  return out;
}

}  // namespace

StreamedCall::StreamedCall(ServerState& state, grpc::CallbackServerContext& context, InferStream& stream,
                           grpc::ByteBuffer& bytes)
    : StreamedBytes(taken(bytes)), MessageCall(state, context, StreamedBytes::bytes), stream_(stream) {}

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
  bool own_buffer = false;
  // Fails for a message of 2 GiB alone, and max_rows scores are far from it.
  (void)grpc::SerializationTraits<google::protobuf::Message>::Serialize(message, &response_, &own_buffer);
  stream_.answered(*this);
}

InferStream::InferStream(ServerState& state, grpc::CallbackServerContext& context) : state_(state), context_(context) {
  StartRead(&read_);
}

void InferStream::OnReadDone(bool ok) {
  std::shared_ptr<StreamedCall> call;
  bool broken = false;
  Step step;
  {
    std::lock_guard lock(mutex_);
    reading_ = false;
    ended_ = !ok;
    broken = broken_;
    if (ok) {
      call.reset(new InferCall<StreamedCall>(state_, context_, *this, read_), &MessageCall::end);
      bytes_ += call->request_bytes_.Length();
      calls_.push_back(call);
    }
    next(step);
  }
  take(std::move(step));
  if (!ok) return;
  // Not answered yet, so the stream lives until it is; from begin() on it may be gone.
  if (broken) call->cancel();
  call->begin();
}

void InferStream::OnWriteDone(bool ok) {
  Step step;
  {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) broken_ = true;
    pop(step.gone);
    next(step);
  }
  take(std::move(step));
}

void InferStream::OnCancel() {
  Calls calls;
  Step step;
  {
    std::lock_guard lock(mutex_);
    broken_ = true;
    calls = calls_;
    next(step);
  }
  for (const auto& call : calls) call->cancel();
  take(std::move(step));
}

void InferStream::answered(StreamedCall& call) noexcept {
  Step step;
  {
    std::lock_guard lock(mutex_);
    call.answered_ = true;
    next(step);
  }
  take(std::move(step));
}

void InferStream::pop(Calls& gone) {
  bytes_ -= calls_.front()->request_bytes_.Length();
  gone.push_back(std::move(calls_.front()));
  calls_.pop_front();
}

void InferStream::next(Step& step) {
  while (!writing_ && !calls_.empty() && calls_.front()->answered_) {
    if (broken_) {
      pop(step.gone);
    } else {
      writing_ = true;
      step.write = calls_.front().get();
    }
  }
  const bool room = calls_.size() < kMostUnanswered && bytes_ < static_cast<size_t>(state_.options.max_message_bytes);
  const bool over = ended_ || broken_;
  if (!reading_ && !over && room) reading_ = step.read = true;
  if (over && !reading_ && !writing_ && calls_.empty() && !finished_) {
    finished_ = step.finish = true;
    if (broken_) step.status = {grpc::StatusCode::CANCELLED, "the stream was cancelled"};
  }
}

void InferStream::take(Step step) {
  step.gone.clear();  // before the stream can end
  if (step.write != nullptr) StartWrite(&step.write->response_);
  if (step.read) StartRead(&read_);
  if (step.finish) Finish(step.status);
}

}  // namespace smt::server
