// One thread of the generator: its share of connections, callers and arrivals, on one epoll loop.
//
// Open sources follow their schedule whatever the server does: a call's latency counts from the moment it was meant to
// be sent, so that neither a slow answer nor a late generator hides what a user would have waited (no coordinated
// omission). How late the generator was is recorded beside it.
#pragma once

#include <memory>
#include <optional>
#include <queue>
#include <span>
#include <vector>

#include "answers.h"
#include "call.h"
#include "connection_set.h"
#include "run_state.h"
#include "schedule.h"
#include "stats.h"

namespace smt::loadgen {

// Used by one thread at a time, except for box().
class Worker final : public CallEvents {
 public:
  Worker(const RunState& run, int index);

  // Opens this worker's connections and waits until all are up. Throws std::runtime_error that names the target.
  void connect() { connections_.connect(); }
  // Makes calls from run.began to run.end, then waits for the last answers.
  void run();

  // After run(). Throws std::runtime_error when answers could not be kept.
  void close_answers() {
    if (answers_) answers_->close();
  }
  const WorkerStats& stats() const { return stats_; }
  IntervalBox& box() { return box_; }

  // For its connections.
  void finished(Call& call, Outcome outcome) override;
  void refused(Call& call) override;
  void released(Call& call) override;

 private:
  enum class Due { kDeadline, kLingered, kCancel, kCaller };
  struct Timer {
    Nanos at;
    Due due;
    uint64_t number;  // Call::number, unless kCaller
    Call* call;
    uint32_t source;  // of a caller
    bool operator>(const Timer& other) const { return at > other.at; }
  };
  struct Open {
    uint32_t source;
    Schedule schedule;
    std::optional<Arrival> next;  // `at` since run.began
  };

  // Without `intended`: a caller's call, which counts from when it is sent.
  void start(uint32_t source, const Choice& choice, std::optional<Nanos> intended);
  void send(Call& call, Connection& connection);
  void record(const Call& call, Outcome outcome, Nanos now);
  void fire(const Timer& timer);
  void start_due(Nanos now);
  void publish(Nanos now);
  Nanos next_moment(Nanos now) const;

  const RunState& run_;
  ConnectionSet connections_;
  std::vector<std::vector<nghttp2_nv>> headers_;

  std::vector<Open> open_;
  std::vector<std::unique_ptr<Chooser>> choosers_;  // by source; null for open ones
  std::vector<uint32_t> idle_callers_;              // by their source; to call at once
  std::priority_queue<Timer, std::vector<Timer>, std::greater<>> timers_;
  Nanos next_publish_ = 0;

  CallPool calls_;
  int64_t outstanding_ = 0;  // calls whose outcome is not known
  bool over_ = false;        // callers do not call again
  WorkerStats stats_;
  Interval interval_;
  IntervalBox box_;
  std::optional<AnswerFile> answers_;
};

}  // namespace smt::loadgen
