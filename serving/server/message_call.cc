#include "message_call.h"

#include <array>

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

Work::Clock::time_point steady_deadline(std::chrono::system_clock::time_point deadline) {
  if (deadline == std::chrono::system_clock::time_point::max()) return Work::Clock::time_point::max();
  auto left = deadline - std::chrono::system_clock::now();
  if (left > std::chrono::hours(24 * 365)) return Work::Clock::time_point::max();
  return Work::Clock::now() + std::chrono::duration_cast<Work::Clock::duration>(left);
}

grpc::StatusCode status_code(Outcome outcome) { return kCodes[static_cast<size_t>(outcome)]; }

MessageCall::MessageCall(ServerState& state, grpc::CallbackServerContext& context, const grpc::ByteBuffer& request)
    : ScoringCall(state, steady_deadline(context.deadline()), request.Length()),
      server_context_(context),
      request_bytes_(request),
      arena_(request_arena(request.Length())) {}

void MessageCall::end(MessageCall* call) {
  ServerState& state = call->state_;
  bool entered = call->entered_;
  delete call;  // before leaving: whoever waits for the gate to be idle may then unload what it referred to
  if (entered) state.gate.leave();
}

void MessageCall::begin() {
  // Cancelled before its message was here: gRPC calls the method all the same. There is no request to count.
  if (!request_bytes_.Valid()) return send(Failure{Outcome::kCancelled, "cancelled before the request had arrived"});
  entered_ = state_.gate.enter();
  if (!entered_) return refuse({Outcome::kUnavailable, kDraining});
  start();
}

void MessageCall::refuse(const Failure& failure) noexcept {
  account(failure);
  send(failure);
}

std::string MessageCall::trace_parent() const {
  auto found = server_context_.client_metadata().find("traceparent");
  if (found == server_context_.client_metadata().end()) return {};
  return shortened({found->second.data(), found->second.size()}, 64);
}

}  // namespace smt::server
