// The works of one scenario that wait for a worker, and what the scenario may take.
#pragma once

#include <chrono>
#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "work.h"

namespace smt::server {

// What the operator grants a scenario.
struct ScenarioPolicy {
  double weight = 1;              // share of the workers while others wait too; > 0
  int priority = 0;               // a scenario of a higher one goes first, always
  int64_t queue_requests = 1024;  // most requests waiting; >= 1
  int64_t queue_ms = 250;         // a request that would wait longer than this is refused; >= 1
  double rows_per_second = 0;     // quota, with bursts of one second of it; 0: none
};

// Not thread-safe: belongs to the scheduler, which uses it under its lock. Never moves, never ends before the
// scheduler.
class ScenarioQueue {
 public:
  using Clock = Work::Clock;

  ScenarioQueue(std::string scenario, const ScenarioPolicy& policy) : scenario_(std::move(scenario)) { set(policy); }

  const std::string& scenario() const { return scenario_; }
  const ScenarioPolicy& policy() const { return policy_; }
  void set(const ScenarioPolicy& policy);

  bool empty() const { return small_.empty() && large_.empty(); }
  size_t size() const { return small_.size() + large_.size(); }
  int64_t waiting_rows() const { return waiting_rows_; }
  size_t bytes() const { return bytes_; }

  // `large`: more rows than a block.
  void push(Work* work, bool large);
  // Out of the queue, with whatever rows are not taken yet.
  void remove(Work* work, bool large);
  // The work whose turn it is: that of the earliest deadline, first come first served among equals; but not two blocks
  // of large works in a row while a small one waits. Requires !empty().
  Work* next() const;
  // Notes that `rows` of next() are handed out, and removes it when they were its last.
  void took(Work* work, bool large, int64_t rows);
  // The work of the earliest and the one of the latest deadline, null when empty.
  Work* first() const;
  Work* last() const;

  // Takes `rows` from the quota. 0 when it suffices, otherwise how long until it will; nothing is taken then.
  std::chrono::milliseconds spend(int64_t rows, Clock::time_point now);

  // FairOrder's: when in virtual time the scenario's next block begins, and since which turn that has been so.
  double start = 0;
  uint64_t turn = 0;

 private:
  // Position of a work: works of the same deadline in the order in which they came.
  struct Sooner {
    bool operator()(const Work* a, const Work* b) const {
      return std::pair(a->deadline, a->sequence_) < std::pair(b->deadline, b->sequence_);
    }
  };
  using Works = std::set<Work*, Sooner>;

  Works& works(bool large) { return large ? large_ : small_; }

  const std::string scenario_;
  ScenarioPolicy policy_;
  Works small_;
  Works large_;
  bool took_large_ = false;  // the last block handed out was of a large work
  uint64_t sequence_ = 0;
  int64_t waiting_rows_ = 0;  // not handed out
  size_t bytes_ = 0;
  double tokens_ = 0;  // rows that the quota grants at `refilled_`
  Clock::time_point refilled_{};
};

}  // namespace smt::server
