// Watches a canary against the stable version on the requests that chance gave to either, and says when it has to go.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "metrics.h"

namespace smt::server {

// When a canary is taken out of service. Each alarm needs `min_requests` of the canary (of both, where they are
// compared) within the last one to two windows, and a difference of four standard errors beyond its threshold, so that
// noise does not raise it. A threshold of 0 turns the alarm off.
struct CanaryRules {
  double error_rate = 0.01;    // share of failed requests above the stable version's
  double latency_ratio = 2;    // p99 over the stable version's; differences below 1 ms do not count
  double drift = 0.2;          // relative difference of a task's mean prediction
  int64_t min_requests = 200;  // > 0
  std::chrono::milliseconds window{60'000};
};

enum class Arm { kStable, kCanary };

enum class AlarmCause { kErrors, kLatency, kDrift };
inline constexpr std::array kAllAlarmCauses{AlarmCause::kErrors, AlarmCause::kLatency, AlarmCause::kDrift};
std::string_view alarm_cause_name(AlarmCause cause);  // errors, latency, drift

struct Alarm {
  AlarmCause cause;
  std::string message;  // with the figures of both versions and the threshold
};

// Thread-safe.
class CanaryMonitor {
 public:
  using Clock = std::chrono::steady_clock;

  explicit CanaryMonitor(const CanaryRules& rules) : rules_(rules) {}

  // One answered request. Outcomes that say nothing of the version (cancelled, refused for load) are left out.
  void answered(Arm arm, Outcome outcome, double seconds, Clock::time_point now = Clock::now());
  // The mean of one request's scores of a task.
  void scored(Arm arm, std::string_view task, double mean, Clock::time_point now = Clock::now());

  std::optional<Alarm> judge(Clock::time_point now = Clock::now());

 private:
  // Latencies by factors of 2^(1/4), from 10 µs to 3 minutes.
  static constexpr size_t kBuckets = 96;
  static size_t bucket(double seconds);
  static double bucket_top(size_t index);  // seconds

  struct Moments {
    double sum = 0;
    double squares = 0;
    int64_t count = 0;  // of requests
    double mean() const { return sum / static_cast<double>(count); }
    double error() const;  // standard error of the mean
  };
  struct Tally {
    int64_t requests = 0;
    int64_t failed = 0;
    std::array<int64_t, kBuckets> latency{};  // of those that did not fail
    std::map<std::string, Moments, std::less<>> scores;

    void add(const Tally& other);
    int64_t answered() const { return requests - failed; }
    double failed_share() const { return static_cast<double>(failed) / static_cast<double>(requests); }
    double p99() const;
    int64_t slower_than(double seconds) const;
  };
  struct Window {
    std::array<Tally, 2> arms;
  };

  void turn(Clock::time_point now);  // requires mutex_
  std::optional<Alarm> errors(const Tally& stable, const Tally& canary) const;
  std::optional<Alarm> latency(const Tally& stable, const Tally& canary) const;
  std::optional<Alarm> drift(const Tally& stable, const Tally& canary) const;

  const CanaryRules rules_;
  std::mutex mutex_;  // guards all below
  Window now_;
  Window before_;
  Clock::time_point turned_ = Clock::now();
};

}  // namespace smt::server
