// Scores answered requests again, by the version that the label `shadow` names, and compares: never before the answer
// is sent, and only while no request waits for a worker.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <stop_token>
#include <thread>
#include <vector>

#include "batch_runner.h"
#include "metrics.h"
#include "scheduler.h"
#include "shadow_route.h"
#include "transform.h"

namespace smt::server {

// The raw columns of a request; views of memory that it holds.
struct RawRows {
  int64_t rows = 0;
  std::span<const transform::Column> context;
  std::span<const transform::Column> candidates;
  bool many = false;  // columns for several scenarios: those that one does not read are no mistake
};

// A request that was answered, as its protocol keeps it.
class AnsweredRequest {
 public:
  virtual ~AnsweredRequest() = default;
  virtual size_t bytes() const = 0;  // that it holds while it waits
  // Once. What it returns lives as long as this. May throw what decoding throws.
  virtual RawRows decode() = 0;
};

struct ShadowWork {
  std::weak_ptr<const ShadowRoute> route;
  std::unique_ptr<AnsweredRequest> request;
  std::vector<float> scores;  // [rows, heads of the stable version]
  ScenarioMetrics* metrics = nullptr;

  size_t bytes() const { return request->bytes() + scores.size() * sizeof(float); }
};

// One thread, of lower priority, computes: a few rows at a time, each time after it has made sure that no request waits
// and a worker is idle. What it needs beyond queue_bytes is one decoded request.
//
// Thread-safe.
class ShadowScorer {
 public:
  struct Limits {
    size_t queue_bytes = size_t{16} << 20;
    int64_t max_rows = 4096;  // of a request
  };

  // `scheduler` outlives it. `on_thread_start` runs first on its thread.
  ShadowScorer(Scheduler& scheduler, const Limits& limits, std::function<void()> on_thread_start = {});
  ~ShadowScorer();  // stop()

  // Takes a request that was answered, or drops it where there is no room. Neither waits nor computes.
  void offer(ShadowWork work) noexcept;

  // Drops what waits, and gives up what is being scored. Idempotent.
  void stop();

  size_t waiting_bytes() const;

 private:
  void run(const std::stop_token& stop);
  void score(ShadowWork& work, const std::stop_token& stop);
  std::vector<float> scored(ShadowWork& work, const std::stop_token& stop);  // throws; empty: given up
  static void drop(const ShadowWork& work);

  Scheduler& scheduler_;
  const Limits limits_;
  BatchRunner runner_;  // of the thread

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable_any offered_;
  std::deque<ShadowWork> queue_;
  size_t bytes_ = 0;  // of queue_
  bool stopped_ = false;

  std::jthread thread_;
};

}  // namespace smt::server
