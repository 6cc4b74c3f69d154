// When calls are meant to be sent, and which: decided by the plan and its seed alone, never by how the server fares.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "clock.h"
#include "plan.h"

namespace smt::loadgen {

// Everything about a call that is drawn.
struct Choice {
  uint32_t stream;   // of Plan::streams
  uint32_t payload;  // of the payload file
  int timeout;       // of Stream::timeouts; -1: none
  Nanos cancel;      // after sending; -1: never
};

// Draws the calls of one source, for one of several threads.
class Chooser {
 public:
  Chooser(const Plan& plan, size_t source, int worker);

  Choice next();
  // The same, where stream and payload are given.
  Choice of(uint32_t stream, uint32_t payload);
  std::mt19937_64& random() { return random_; }

 private:
  uint32_t pick_stream();

  const Plan& plan_;
  const Source& source_;
  std::mt19937_64 random_;
  std::vector<double> cumulative_;      // of the streams' weights
  std::vector<uint32_t> next_payload_;  // by stream of the source
};

struct Arrival {
  Nanos at;  // since the run began
  Choice choice;
};

// A record of a replay's file, in rising order of `at`; `stream` and `payload` count within the source and the stream.
struct ReplayRecord {
  int64_t at;
  uint32_t stream;
  uint32_t payload;
};

// The arrivals of an open source that one of `workers` threads makes. The threads' schedules are parts of one: of a
// Poisson process each has one of rate/workers, whose sum is the process; of a fixed rate or a replay, every
// workers-th.
class Schedule {
 public:
  // Throws PlanError for a replay's file.
  Schedule(const Plan& plan, size_t source, int worker, int workers);

  // The next one; nullopt once a replay's file is at its end.
  std::optional<Arrival> next();

 private:
  const Plan& plan_;
  const Source& source_;
  Chooser chooser_;
  int workers_;
  double gap_;  // nanoseconds, between two of this worker's arrivals, on average
  double at_;
  size_t index_;  // of the source's arrivals
  std::vector<ReplayRecord> records_;
};

}  // namespace smt::loadgen
