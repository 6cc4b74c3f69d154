// Whose turn it is: the order in which scenarios that wait get workers.
//
// Strict priority first. Within one: start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996). What a scenario takes
// moves its start on by the price over its weight; virtual time is the latest start that was served before it was due,
// and when nobody waits any more, the latest of all.
//
// Those whose start has come are *due*. They go first, in the order in which they came to be, whatever their starts:
// a scenario that asks for less than its share is due whenever it asks, and waits no longer because it took more than
// others lately. It stays due while it catches up on what it left, up to a credit: requests that come close together do
// not take turns with those of a scenario that asks for more than its share. Of the others the earliest start is next.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>

#include "scenario_queue.h"

namespace smt::server {

// Not thread-safe: the scheduler uses it under its lock.
class FairOrder {
 public:
  // Worker time, by weight, that a scenario may take later than it was due.
  static constexpr double kCreditSeconds = 25e-3;

  bool empty() const { return waiting_ == 0; }
  double weight() const { return weight_; }  // of all that wait
  // Requires !empty().
  ScenarioQueue& next() const;

  // Calls change(), which may fill or empty the queue, and alter its policy.
  template <typename Change>
  void update(ScenarioQueue& queue, Change change) {
    const bool was = remove(queue);
    change();
    insert(queue, was);
  }
  // The same with a change() that takes, of a queue that waits, what costs so many seconds of a worker.
  template <typename Change>
  void charge(ScenarioQueue& queue, double seconds, Change change) {
    update(queue, [&] {
      advance(queue, seconds);
      change();
    });
    call_due(levels_[queue.policy().priority]);
  }

 private:
  // Of one priority.
  struct Level {
    struct ByTurn {
      bool operator()(const ScenarioQueue* a, const ScenarioQueue* b) const { return a->turn < b->turn; }
    };
    struct ByStart {
      bool operator()(const ScenarioQueue* a, const ScenarioQueue* b) const {
        return a->start != b->start ? a->start < b->start : a->scenario() < b->scenario();
      }
    };
    std::set<ScenarioQueue*, ByTurn> due;
    std::set<ScenarioQueue*, ByStart> early;
    double time = 0;    // virtual
    double latest = 0;  // start of any queue

    bool empty() const { return due.empty() && early.empty(); }
  };

  void advance(ScenarioQueue& queue, double seconds);
  void call_due(Level& level);  // those whose start has come
  bool remove(ScenarioQueue& queue);
  void insert(ScenarioQueue& queue, bool was_waiting);

  std::map<int, Level, std::greater<>> levels_;
  size_t waiting_ = 0;
  double weight_ = 0;
  uint64_t turns_ = 0;
};

}  // namespace smt::server
