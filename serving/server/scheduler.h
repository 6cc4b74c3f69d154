// Who computes what, and when: the queues of all scenarios, and the threads that own compute.
//
// At most so many blocks are computed at once as there are workers. The threads that read requests hand their work over
// and return; but to wake a worker takes longer than to score a few rows, so what is small and comes while no one
// computes is computed by the thread that brings it.
//
// The unit is a *block*: at most block_rows rows, and some two milliseconds of work, all of one template binary,
// computed by one worker in one call. An idle worker takes what there is at once; under backlog a block is filled with
// what waits. Rows of a large work are handed out block by block, to as many workers as are free, so nobody waits
// behind more than the blocks that run.
//
// Between scenarios: FairOrder, where a block costs the time that its rows take. Within one: earliest deadline first
// (ScenarioQueue::next).
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "block.h"
#include "cost_model.h"
#include "fair_order.h"
#include "scenario_queue.h"
#include "work.h"

namespace smt::server {

class BatchRunner;

// Thread-safe.
class Scheduler {
 public:
  using Clock = Work::Clock;

  struct Limits {
    size_t workers = 1;        // >= 1
    int64_t block_rows = 256;  // multiple of 16
    size_t queue_bytes = 1;    // sum of Work::bytes of what waits, over all scenarios; a single work is always let in
  };

  // What one block was; for metrics. Called on the worker, without a lock.
  struct BlockReport {
    int64_t rows = 0;          // padding included
    int64_t padding = 0;       // rows computed for nobody
    int64_t expired_rows = 0;  // rows whose deadline had passed when their compute began: 0, as it should be
  };
  using Observer = std::function<void(const BlockReport&)>;

  // `on_thread_start` runs first on every thread that computes.
  Scheduler(const Limits& limits, Observer observer, std::function<void()> on_thread_start = {});
  ~Scheduler();  // stop()

  // The scenario's queue, made when there is none. Only for names that the registry knows: queues are kept.
  ScenarioQueue& queue(std::string_view scenario);
  // Sets what scenarios are granted: `policies` by name, `fallback` for all others, those that exist included.
  void configure(std::map<std::string, ScenarioPolicy, std::less<>> policies, const ScenarioPolicy& fallback);

  // Why a work like this would be refused now, and when it is worth to try again; kNone: it may be taken. Cheap: for a
  // look before a request is parsed. Of `work` queue and deadline count; and the snapshot, null if it is not known, and
  // the rows, 0 if they are not: it may not be refused then for what it would take.
  Drop refuses(const Work& work, std::chrono::milliseconds& retry_after);

  // Takes all of `works`, or concludes those that it refuses, on this thread. Does not wait, but may compute what is
  // small. Works of one sibling ring must be submitted together.
  void submit(std::span<Work* const> works);

  // For a thread that polls, and brings what many clients sent meanwhile: from begin_turns() on, works of less than a
  // row block that it submits are begun in its end_turn(), together. Begun one by one each would read the weights for
  // itself, and those behind it would not even be read from their sockets. Every turn that submits has to end.
  static void begin_turns();
  void end_turn();

  // The client of `work`, which was submitted and not concluded, went away: what is not handed out yet is dropped.
  void cancel(Work* work);

  size_t waiting() const;  // works with rows not handed out
  struct Backlog {
    std::string scenario;
    int64_t requests = 0;
    int64_t rows = 0;  // not handed out
  };
  std::vector<Backlog> backlogs() const;  // of every queue

  // Returns true as soon as no work waits and a worker is idle: when there is time for what nobody waits for. False
  // when `stop` is requested.
  bool wait_idle(const std::stop_token& stop);
  // The same; false also when `longest` is over.
  bool wait_idle(const std::stop_token& stop, Clock::duration longest);

  // Refuses new works, concludes the waiting ones with kShutdown, waits for the running ones. Idempotent, not from a
  // worker.
  void stop();

 private:
  void work();
  void compute(Block& block, BatchRunner& runner);
  // Sees to it that what waits is computed: on this thread, if it is little and nobody computes.
  void begin(std::vector<Work*>& ended);

  // All of the following require mutex_. Works to conclude, once it is released, are added to `ended`.

  // Whether all that waits is little enough for the thread that brings it, and nobody computes.
  bool little() const;
  Drop admit(Work* work, Clock::time_point now, std::vector<Work*>& ended);
  bool make_room(const Work* work, std::vector<Work*>& ended);
  void enqueue(Work* work);
  void take(Block& block, std::vector<Work*>& ended);
  bool fill(ScenarioQueue& queue, Block& block, int64_t limit, Clock::time_point now, std::vector<Work*>& ended);
  void take_rows(Work* work, int64_t rows, Block& block, Clock::time_point now);
  void take_siblings(Work* work, Block& block, Clock::time_point now);
  bool joins(const Work* work, int64_t rows, const Block& block) const;
  void drop(Work* work, Drop reason, std::vector<Work*>& ended);
  void drop_dead(ScenarioQueue& queue, Clock::time_point now, std::vector<Work*>& ended);
  Drop dead(const Work* work, Clock::time_point now) const;
  // Counts as an idler for the time of `wait(lock)`; returns what it does.
  template <typename Wait>
  bool as_idler(Wait wait);
  bool idle() const { return waiting_works_ == 0 && running_ < limits_.workers; }
  // Whether somebody has to be told, through idle_, that there is time. To be asked after what may have made it so.
  bool idle_for_somebody() const { return idlers_ > 0 && idle(); }
  int64_t block_limit() const;
  double wait_seconds(const ScenarioQueue& queue) const;
  CostModel& cost(const Work* work) { return costs_[work->snapshot->binary.get()]; }
  double row_seconds(const Work* work) const;
  int64_t most_rows(const Work* work) const;
  double own_seconds(const Work* work) const;
  double own_seconds(const Work* work, int64_t rows) const;
  Drop unmeetable(const Work* work);
  // Its turn comes after that of all that waits in its queue.
  bool behind_all(const Work* work) const;
  // Whether the work can be promised to be computed in `needed` seconds' time (by the average) from now.
  bool in_time(const Work* work, double needed, Clock::time_point now) const;
  // Whether `rows` of the work would make a block take longer than a deadline in it allows.
  bool delays(const Block& block, const Work* work, int64_t rows, Clock::time_point now) const;
  bool large(const Work* work) const { return work->rows > limits_.block_rows; }

  const Limits limits_;
  const Observer observer_;
  const std::function<void()> on_thread_start_;

  // Guards all of the below, the queues, and the private fields of works that say so. Never held during compute, a
  // conclusion, or a wait other than the two below.
  mutable std::mutex mutex_;
  std::condition_variable available_;  // workers wait for a block to take
  std::condition_variable ended_;      // stop() waits for the last block
  std::condition_variable_any idle_;   // wait_idle()
  std::map<std::string, std::unique_ptr<ScenarioQueue>, std::less<>> queues_;
  std::map<std::string, ScenarioPolicy, std::less<>> policies_;
  ScenarioPolicy fallback_;
  FairOrder order_;  // of those that are not empty
  // By binary; one that was unloaded leaves its figures behind, for whichever comes to lie at its address.
  std::map<const TemplateBinary*, CostModel> costs_;
  int64_t waiting_rows_ = 0;
  size_t waiting_works_ = 0;
  size_t waiting_bytes_ = 0;
  size_t running_ = 0;  // blocks being computed; <= limits_.workers
  size_t idlers_ = 0;   // threads in wait_idle()
  bool stopped_ = false;

  std::vector<std::thread> threads_;
};

}  // namespace smt::server
