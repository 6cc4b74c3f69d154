// What a run's calls came to.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "histogram.h"
#include "outcome.h"

namespace smt::loadgen {

// Of one stream. "Measured" calls are those of the measured window: intended in it (open sources), or ended in it
// (closed ones).
struct StreamStats {
  std::array<std::unique_ptr<Histogram>, kOutcomes> latency;  // of measured calls; null: no such call
  // The same from when their first bytes were sent, of those that were: what the server could know of.
  std::array<std::unique_ptr<Histogram>, kOutcomes> since_sent;
  std::array<uint64_t, kOutcomes> total{};  // of all calls, warm-up and the wait at the end included
  uint64_t ok_rows = 0;                     // of measured calls, as the following
  uint64_t request_bytes = 0;               // messages, all outcomes
  uint64_t response_bytes = 0;              // messages
  // Answers OK that arrived after the deadline; `latest_ok` is how long after it the latest was.
  uint64_t late_ok = 0;
  int64_t latest_ok = 0;

  void add(const StreamStats& other);
};

struct WorkerStats {
  std::vector<StreamStats> streams;
  std::vector<Histogram> lag;  // by source: how long after the intended moment a call was sent; closed sources: none
  uint64_t connections_ended = 0;   // that had been up, for whatever reason; the run's end included
  uint64_t connections_broken = 0;  // of them, abruptly closed by us, as the plan asks
  uint64_t retried = 0;             // calls that an ending connection refused and another one took
  bool prompt = false;              // see run_promptly()
  uint64_t bytes_in = 0;            // on the wire, HTTP/2 included, TLS not
  uint64_t bytes_out = 0;

  void add(const WorkerStats& other);
};

// What happened since the last look, of all sources and calls: for progress.
struct Interval {
  Histogram latency;  // of OK
  Histogram lag;
  uint64_t ok = 0;
  uint64_t failed = 0;
  uint64_t rows = 0;
  uint64_t outstanding = 0;  // at the end of it

  void add(const Interval& other);
  void clear();
};

// Hands a worker's intervals to the thread that shows them. Thread-safe.
class IntervalBox {
 public:
  // Adds what the worker has gathered, and clears that.
  void put(Interval& gathered) {
    std::lock_guard lock(mutex_);
    content_.add(gathered);
    content_.outstanding = gathered.outstanding;
    gathered.clear();
  }
  // Adds the content to `into` and clears it.
  void take(Interval& into) {
    std::lock_guard lock(mutex_);
    into.add(content_);
    content_.clear();
  }

 private:
  std::mutex mutex_;  // guards content_
  Interval content_;
};

}  // namespace smt::loadgen
