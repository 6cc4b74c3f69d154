#include "message_call.h"

#include <array>
#include <utility>

#include "names.h"
#include "request_arena.h"

namespace smt::server {
namespace {

constexpr std::array<grpc::StatusCode, kOutcomeNames.size()> kCodes{grpc::StatusCode::OK,
                                                                    grpc::StatusCode::CANCELLED,
                                                                    grpc::StatusCode::INVALID_ARGUMENT,
                                                                    grpc::StatusCode::DEADLINE_EXCEEDED,
                                                                    grpc::StatusCode::NOT_FOUND,
                                                                    grpc::StatusCode::RESOURCE_EXHAUSTED,
                                                                    grpc::StatusCode::INTERNAL,
                                                                    grpc::StatusCode::UNAVAILABLE};

constexpr const char* kDraining = "the server is draining; send the request to another one";

}  // namespace

grpc::StatusCode status_code(Outcome outcome) { return kCodes[static_cast<size_t>(outcome)]; }

MessageCall::MessageCall(ServerState& state, std::shared_ptr<rpc::Stream> stream, size_t bytes)
    : ScoringCall(state, stream->deadline(), bytes), stream_(std::move(stream)), arena_(request_arena(bytes)) {}

void MessageCall::end(MessageCall* call) {
  ServerState& state = call->state_;
  bool entered = call->entered_;
  call->offer_to_shadows();
  delete call;  // before leaving: whoever waits for the gate to be idle may then unload what it referred to
  if (entered) state.gate.leave();
}

void MessageCall::begin(grpc::ByteBuffer bytes) {
  request_bytes_ = std::move(bytes);
  bytes_ = request_bytes_.Length();
  entered_ = state_.gate.enter();
  if (!entered_) return refuse({Outcome::kUnavailable, kDraining});
  start();
}

bool MessageCall::refused_early(std::string_view beginning) noexcept {
  // What drains says so when the message is here, whose end it need not wait for.
  if (!state_.gate.enter()) return false;
  grpc::Slice slice(beginning.data(), beginning.size());
  request_bytes_ = grpc::ByteBuffer(&slice, 1);
  entered_ = refuse_now();
  if (!entered_) state_.gate.leave();
  return entered_;
}

void MessageCall::refuse(const Failure& failure) noexcept {
  account(failure);
  send(failure);
}

std::unique_ptr<AnsweredRequest> MessageCall::keep() const {
  return keep_message(request_bytes_, kind(), state_.options.max_rows);
}

std::string MessageCall::trace_parent() const { return shortened(stream_->trace_parent(), 64); }

}  // namespace smt::server
