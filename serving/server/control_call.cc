#include "control_call.h"

#include <utility>
#include <vector>

#include "log.h"
#include "names.h"

namespace smt::server {
namespace {

std::string_view code_name(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:
      return "OK";
    case grpc::StatusCode::CANCELLED:
      return "CANCELLED";
    case grpc::StatusCode::INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "DEADLINE_EXCEEDED";
    case grpc::StatusCode::NOT_FOUND:
      return "NOT_FOUND";
    case grpc::StatusCode::FAILED_PRECONDITION:
      return "FAILED_PRECONDITION";
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return "RESOURCE_EXHAUSTED";
    case grpc::StatusCode::UNAUTHENTICATED:
      return "UNAUTHENTICATED";
    case grpc::StatusCode::UNAVAILABLE:
      return "UNAVAILABLE";
    default:
      return "INTERNAL";
  }
}

grpc::StatusCode status_code(CommandCode code, const grpc::CallbackServerContext& context) {
  switch (code) {
    case CommandCode::kOk:
      return grpc::StatusCode::OK;
    case CommandCode::kInvalidArgument:
      return grpc::StatusCode::INVALID_ARGUMENT;
    case CommandCode::kNotFound:
      return grpc::StatusCode::NOT_FOUND;
    case CommandCode::kFailedPrecondition:
      return grpc::StatusCode::FAILED_PRECONDITION;
    case CommandCode::kResourceExhausted:
      return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case CommandCode::kUnavailable:
      return grpc::StatusCode::UNAVAILABLE;
    case CommandCode::kCancelled:
      break;
  }
  bool late = std::chrono::system_clock::now() >= context.deadline();
  return late ? grpc::StatusCode::DEADLINE_EXCEEDED : grpc::StatusCode::CANCELLED;
}

// The names in the client's certificate; empty without one.
std::string identity(const grpc::CallbackServerContext& context) {
  std::vector<std::string> names;
  if (auto auth = context.auth_context()) {
    for (const grpc::string_ref& name : auth->GetPeerIdentity()) names.emplace_back(name.data(), name.size());
  }
  return names.empty() ? "" : joined(names);
}

}  // namespace

ControlCall::ControlCall(ControlPlane& plane, grpc::CallbackServerContext& context, std::string method)
    : plane_(plane), context_(context), method_(std::move(method)) {
  plane_.gate.enter();
}

void ControlCall::OnDone() {
  plane_.gate.leave();
  delete this;
}

bool ControlCall::admitted() {
  if (!plane_.token) return true;
  auto [begin, end] = context_.client_metadata().equal_range("authorization");
  // Several would be a proxy's doing, or an attempt: which of them counts must not be a matter of order.
  if (begin != end && std::next(begin) == end && plane_.token->matches({begin->second.data(), begin->second.size()})) {
    return true;
  }
  answer(
      {grpc::StatusCode::UNAUTHENTICATED,
       "the metadata 'authorization' is missing or wrong; expected 'Bearer TOKEN' once, with the token in the file of "
       "the server's --control-token-file"});
  return false;
}

void ControlCall::about(std::string scenario, std::string value) {
  scenario_ = std::move(scenario);
  value_ = std::move(value);
}

void ControlCall::answer(const grpc::Status& status) {
  std::string_view code = code_name(status.error_code());
  plane_.metrics.control(method_, std::string(code)).Increment();
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - arrived_).count();
  log::audit("control", {{"method", method_},
                         {"scenario", shortened(scenario_, 80)},
                         {"value", shortened(value_, 80)},
                         {"peer", context_.peer()},
                         {"identity", identity(context_)},
                         {"code", code},
                         {"message", status.error_message()},
                         {"seconds", seconds}});
  Finish(status);
}

void ControlCall::command(CommandVerb verb, std::function<grpc::Status()> fill) {
  plane_.commands.submit({.verb = verb,
                          .scenario = scenario_,
                          .version = verb == CommandVerb::kLoad ? value_ : "",
                          .abandoned = abandoned_.get_token(),
                          .done = [this, fill = std::move(fill)](const CommandOutcome& outcome) {
                            answer(outcome.code == CommandCode::kOk
                                       ? fill()
                                       : grpc::Status(status_code(outcome.code, context_), shortened(outcome.message)));
                          }});
}

}  // namespace smt::server
