// A call that scores candidates, whatever the protocol: from its bytes to its answer.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "canary_monitor.h"
#include "failure.h"
#include "message_bytes.h"
#include "metrics.h"
#include "server_state.h"
#include "shadow_scorer.h"
#include "work.h"

namespace smt::server {

class ScoringCall;

// What a protocol calls the fields that name a target's parts.
struct FieldNames {
  const char* scenario = "scenario";
  const char* version = "version";
  const char* tasks = "tasks";
};

// One scenario that a call asks for.
class Target final : public Work {
 public:
  explicit Target(ScoringCall& call) : call_(call) {}

  // What the decoder names; views of its message.
  std::string_view scenario;
  std::string_view version;             // empty: whichever is current
  std::string_view label;               // empty: stable
  std::vector<std::string_view> tasks;  // empty: all
  FieldNames names;                     // for error texts
  std::string where;                    // what they put before a field's name: "" or such as "scenarios[2]."

  // What became of it: heads() to return in order, or the failure.
  std::vector<const Task*> heads;  // of `snapshot`
  std::optional<Failure> failure;
  // When chance gave it to the stable version or the canary: which, and who compares them.
  Arm arm = Arm::kStable;
  std::shared_ptr<CanaryMonitor> monitor;  // null: it named its version, or there is no canary
  ScenarioMetrics* metrics = nullptr;      // of the scenario, or of "_unknown"
  // When it answered for the stable version and chance gave the request to a shadow as well; null: not.
  std::shared_ptr<const ShadowRoute> shadow;

  void concluded(Drop drop) noexcept override;
  bool cancelled() const noexcept override;

  // `head`'s scores of all rows, one after the other. False when one is not finite: `failure` is set then.
  bool column(const Task& head, float* out);

 private:
  friend class ScoringCall;
  ScoringCall& call_;
  // The columns that it reads, when the call has others too.
  std::vector<transform::Column> context_;
  std::vector<transform::Column> candidates_;
};

// Life: start() on a thread of the data port decodes, resolves every target, checks all that was sent, and queues;
// workers score; the last target to conclude calls respond(). Exactly one of respond() and refuse() is called, on any
// thread, and may destroy the call.
//
// A target's snapshot reference is taken once, in start(): checks, transformation and compute see one version, and
// the answer names it.
class ScoringCall {
 public:
  using Clock = Work::Clock;

  // `state` outlives the call. `bytes`: of the message.
  ScoringCall(ServerState& state, Clock::time_point deadline, size_t bytes);
  virtual ~ScoringCall();
  ScoringCall(const ScoringCall&) = delete;
  ScoringCall& operator=(const ScoringCall&) = delete;

  void start() noexcept;
  // Refuses already by what peek() tells, if that is enough: true then, and there is to be no start().
  bool refuse_now() noexcept;
  // The client went away: what is not computed yet is dropped. Any thread, any time until the call is destroyed.
  void cancel() noexcept;

  bool cancelled() const noexcept { return cancelled_.load(); }

 protected:
  // What a look at the first bytes tells: a request is refused for no more than that, if that is enough.
  virtual Beginning peek() { return {}; }
  // Parses, and fills rows_, context_, candidates_, request_id_, bytes_ and targets (add_target()). Throws Failure or
  // transform::InputError.
  virtual void decode() = 0;
  // All targets have concluded. Encodes and sends.
  virtual void respond() noexcept = 0;
  // The call as a whole failed.
  virtual void refuse(const Failure& failure) noexcept = 0;
  // W3C trace context as the client sent it; asked for only when a line is logged.
  virtual std::string trace_parent() const { return {}; }

  // The request, for shadows; null where the protocol has none to give. After the answer was sent.
  virtual std::unique_ptr<AnsweredRequest> keep() const { return nullptr; }
  // Gives what was answered to the shadows that are to score it again. Last of all.
  void offer_to_shadows() noexcept;

  Target& add_target();
  std::vector<std::unique_ptr<Target>>& targets() { return targets_; }

  // Counts the target's outcome and times; once for each, before the answer is sent.
  void account(Target& target);
  // Counts a refusal of the whole call, under the scenario if it is known, and logs it.
  void account(const Failure& failure);

  ServerState& state_;
  const Clock::time_point arrived_ = Clock::now();
  Clock::time_point deadline_;
  size_t bytes_;  // of the message and, once parsed, of what it became
  int64_t rows_ = 0;
  std::vector<transform::Column> context_;
  std::vector<transform::Column> candidates_;
  std::string_view request_id_;
  std::string_view request_key_;  // what decides between canary and stable; empty: the request id does
  // Several targets: each reads its own of the columns, and fails for itself. Set by the decoder.
  bool many_ = false;

 private:
  friend class Target;

  void admit();  // throws Failure, InputError
  // Why it is refused, if what peek() tells is enough to know. No exception: in a flood it would be a tenth of what a
  // refusal costs.
  std::optional<Failure> early_failure();
  void resolve(Target& target);         // throws Failure, InputError
  void choose_version(Target& target);  // throws Failure
  std::string_view route_key();
  void resolve_tasks(Target& target);
  void check(Target& target);  // throws InputError
  void check_read();           // throws InputError
  void submit();
  void target_concluded() noexcept;
  void compare(const Target& target, Outcome outcome, double seconds);  // with the other version
  void log_request(const Target& target, Outcome outcome, const std::string& message);

  std::vector<std::unique_ptr<Target>> targets_;
  std::string_view peeked_;
  std::string own_key_;
  std::atomic<int64_t> left_{0};  // targets not concluded, and one for start(); release and acquire order their results
  // cancel() sets the first and reads the second, start() sets the second and (under the scheduler's lock, for each
  // work) reads the first: sequentially consistent, so that at least one of them sees the other.
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> submitted_{false};
};

}  // namespace smt::server
