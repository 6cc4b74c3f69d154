// One thread of the generator: its share of connections, callers and arrivals, on one epoll loop.
//
// Open sources follow their schedule whatever the server does: a call's latency counts from the moment it was meant to
// be sent, so that neither a slow answer nor a late generator hides what a user would have waited (no coordinated
// omission). How late the generator was is recorded beside it.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <queue>
#include <span>
#include <string>
#include <vector>

#include "call.h"
#include "connection.h"
#include "payloads.h"
#include "plan.h"
#include "schedule.h"
#include "stats.h"

namespace smt::loadgen {

// What all workers share; outlives them.
struct RunState {
  const Plan& plan;
  const Payloads& payloads;
  const std::vector<Address>& addresses;
  SSL_CTX* tls;
  // Set before the workers run; read by them alone afterwards.
  Nanos began = 0;
  // When to stop making calls. Lowered by the main thread to end the run early, read by workers in every turn of their
  // loop; relaxed, since nothing else depends on it.
  std::atomic<Nanos> end{0};
};

// Used by one thread at a time, except for box().
class Worker final : public CallEvents {
 public:
  Worker(const RunState& run, int index);
  ~Worker() override;

  // Opens this worker's connections and waits until all are up. Throws std::runtime_error that names the target.
  void connect();
  // Makes calls from run.began to run.end, then waits for the last answers.
  void run();

  const WorkerStats& stats() const { return stats_; }
  IntervalBox& box() { return box_; }

  // For its connections.
  void finished(Call& call, Outcome outcome) override;
  void refused(Call& call) override;
  void released(Call& call) override;

 private:
  enum class Due { kDeadline, kCancel, kCaller };
  struct Timer {
    Nanos at;
    Due due;
    uint64_t number;  // Call::number, unless kCaller
    Call* call;
    uint32_t source;  // of a caller
    bool operator>(const Timer& other) const { return at > other.at; }
  };
  // One of this worker's connections, replaced when it ends.
  struct Slot {
    const Address* address;
    std::unique_ptr<Connection> connection;
    Nanos retry_at = 0;  // when closed
  };
  struct Open {
    uint32_t source;
    Schedule schedule;
    std::optional<Arrival> next;  // `at` since run.began
  };

  // Without `intended`: a caller's call, which counts from when it is sent.
  void start(uint32_t source, const Choice& choice, std::optional<Nanos> intended);
  void send(Call& call, Connection& connection);
  Connection* pick();
  void record(const Call& call, Outcome outcome, Nanos now);
  void fire(const Timer& timer);
  void start_due(Nanos now);
  void poll(Nanos wait);
  void open(Slot& slot);
  void flush();
  void mend_connections(Nanos now);
  void retire(const Connection& connection);
  void break_connection(Nanos now);
  void publish(Nanos now);
  Nanos next_moment(Nanos now) const;

  const RunState& run_;
  const int index_;
  int epoll_ = -1;
  std::vector<char> buffer_;
  std::vector<std::vector<nghttp2_nv>>
      headers_;  // by stream; the last one is grpc-timeout, whose value is set per call

  std::vector<Slot> slots_;
  std::vector<std::unique_ptr<Connection>> draining_;  // taken out of their slots until their last call has ended
  size_t turn_ = 0;                                    // of pick()

  std::vector<Open> open_;
  std::vector<std::unique_ptr<Chooser>> choosers_;  // by source; null for open ones
  std::vector<uint32_t> idle_callers_;              // by their source; to call at once
  std::priority_queue<Timer, std::vector<Timer>, std::greater<>> timers_;
  std::mt19937_64 random_;  // which connections break, and when
  Nanos next_break_ = INT64_MAX;
  Nanos next_publish_ = 0;

  CallPool calls_;
  int64_t outstanding_ = 0;  // calls whose outcome is not known
  bool over_ = false;        // callers do not call again
  WorkerStats stats_;
  Interval interval_;
  IntervalBox box_;
};

}  // namespace smt::loadgen
