// One call to the control listener: who asks, what, and what came of it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <functional>
#include <stop_token>
#include <string>

#include "control_token.h"
#include "inflight_gate.h"
#include "metrics.h"
#include "registry_commands.h"

namespace smt::server {

// What control calls share. Outlives every call.
struct ControlPlane {
  RegistryCommands& commands;
  Metrics& metrics;
  const ControlToken* token;  // null: whoever connects may call
  // Every call is inside until its answer is sent; never closed, so that calls are answered while the server drains.
  InflightGate gate{};
};

// Answers, counts and logs exactly once. A handler makes it, calls one of answer() and command(), and returns it to
// gRPC; once that has the answer, it deletes itself.
class ControlCall final : public grpc::ServerUnaryReactor {
 public:
  // `method` is one of a fixed set: it is a label.
  ControlCall(ControlPlane& plane, grpc::CallbackServerContext& context, std::string method);

  // Whether the caller may; otherwise UNAUTHENTICATED has been answered. To be asked before the request is looked at.
  bool admitted();
  // What is asked, for the log. `value`: a version, a number of seconds, a level.
  void about(std::string scenario, std::string value = "");
  void answer(const grpc::Status& status);
  // Has what about() named done, and answers then: what `fill` says, which fills the response on the registry's thread,
  // or why it was not done.
  void command(CommandVerb verb, std::function<grpc::Status()> fill);

  void OnCancel() override { abandoned_.request_stop(); }
  void OnDone() override;

 private:
  ControlPlane& plane_;
  grpc::CallbackServerContext& context_;
  const std::string method_;
  std::string scenario_;
  std::string value_;
  const std::chrono::steady_clock::time_point arrived_ = std::chrono::steady_clock::now();
  std::stop_source abandoned_;  // the client went away, or the deadline passed
};

}  // namespace smt::server
