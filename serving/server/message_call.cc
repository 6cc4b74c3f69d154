#include "message_call.h"

#include <grpcpp/support/proto_buffer_reader.h>

#include <array>

#include "names.h"
#include "parse_message.h"
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

// Smaller messages are parsed without a scan: what they can grow to does not matter.
constexpr size_t kScanAbove = size_t{64} << 10;

constexpr const char* kDraining = "the server is draining; send the request to another one";

}  // namespace

Work::Clock::time_point steady_deadline(std::chrono::system_clock::time_point deadline) {
  if (deadline == std::chrono::system_clock::time_point::max()) return Work::Clock::time_point::max();
  auto left = deadline - std::chrono::system_clock::now();
  if (left > std::chrono::hours(24 * 365)) return Work::Clock::time_point::max();
  return Work::Clock::now() + std::chrono::duration_cast<Work::Clock::duration>(left);
}

grpc::StatusCode status_code(Outcome outcome) { return kCodes[static_cast<size_t>(outcome)]; }

std::string_view first_text(const grpc::ByteBuffer& bytes) {
  grpc::Slice slice;
  if (!bytes.TrySingleSlice(&slice).ok()) return {};
  std::string_view text(reinterpret_cast<const char*>(slice.begin()), slice.size());
  constexpr char kTag = 1 << 3 | 2;
  constexpr unsigned kOneByte = 0x80;  // lengths below it take one byte; names are shorter
  if (text.size() < 2 || text[0] != kTag || static_cast<unsigned char>(text[1]) >= kOneByte) return {};
  auto length = static_cast<size_t>(text[1]);
  return text.size() < 2 + length ? std::string_view() : text.substr(2, length);
}

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
  entered_ = state_.gate.enter();
  if (!entered_) return refuse({Outcome::kUnavailable, kDraining});
  start();
}

void MessageCall::scan(RequestKind kind) const {
  if (request_bytes_.Length() <= kScanAbove) return;
  grpc::ByteBuffer bytes = request_bytes_;  // shares the slices; reading consumes the handle
  grpc::ProtoBufferReader reader(&bytes);
  std::string error = scan_request(reader, kind, wire_limits(state_.options.max_rows));
  if (!error.empty()) throw Failure{Outcome::kInvalidArgument, error};
}

void MessageCall::parse(google::protobuf::Message& message) {
  if (std::string error = parse_message(request_bytes_, message); !error.empty()) {
    throw Failure{Outcome::kInvalidArgument, error};
  }
  count_memory();
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
