// The connections of one worker: opened before the run, renewed when they end, broken on purpose if the plan asks.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "connection.h"
#include "run_state.h"
#include "stats.h"

namespace smt::loadgen {

// Not thread-safe.
class ConnectionSet {
 public:
  // The share of `worker`. `events` learns of the connections' calls.
  ConnectionSet(const RunState& run, int worker, CallEvents& events);
  ConnectionSet(const ConnectionSet&) = delete;
  ConnectionSet& operator=(const ConnectionSet&) = delete;
  ~ConnectionSet();

  // Opens all and waits until they are up. Throws std::runtime_error that names the target.
  void connect();
  // The connection for the next call: the one with the fewest calls under way; among equals, each in turn. Null when
  // none is up.
  Connection* pick();
  // Waits for the sockets, at most so long, and takes what they bring.
  void poll(Nanos wait);
  // Sends what there is to send.
  void flush();
  // Opens another for each that ended, and breaks one where that is due. To be called regularly, but not from within
  // CallEvents.
  void renew(Nanos now);
  // When renew() has to be called at the latest.
  Nanos next_break() const { return next_break_; }
  // Closes all and adds what they did to `stats`.
  void close(WorkerStats& stats);

 private:
  struct Slot {
    const Address* address;
    std::unique_ptr<Connection> connection;
    Nanos retry_at = 0;  // when there is none
  };

  void open(Slot& slot);
  void break_one(Nanos now);
  void count(const Connection& connection);

  const RunState& run_;
  CallEvents& events_;
  int epoll_;
  std::vector<char> buffer_;  // of what is read
  std::vector<Slot> slots_;
  std::vector<std::unique_ptr<Connection>> draining_;  // taken out of their slots until their last call has ended
  size_t turn_ = 0;                                    // of pick()
  std::mt19937_64 random_;                             // which connections break, and when
  std::exponential_distribution<double> break_gap_;    // in seconds
  Nanos next_break_ = INT64_MAX;
  WorkerStats done_;  // of connections that are gone
};

}  // namespace smt::loadgen
