#include "canary_monitor.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace smt::server {
namespace {

constexpr double kErrors = 4;  // standard errors
constexpr double kLeastLatency = 10e-6;
constexpr double kLatencyMargin = 1e-3;
constexpr double kTail = 0.01;  // the share of requests beyond p99

bool is_failure(Outcome outcome) {
  // Also of those that blame the request: the canary may ask for features that clients do not send.
  return outcome == Outcome::kInternal || outcome == Outcome::kInvalidArgument || outcome == Outcome::kDeadlineExceeded;
}

// The least count out of n that chance, at probability p, does not explain.
double beyond_chance(double n, double p) { return n * p + kErrors * std::sqrt(n * p * (1 - p)); }

template <typename... Values>
std::string format(const char* text, Values... values) {
  std::array<char, 256> out{};
  std::snprintf(out.data(), out.size(), text, values...);
  return out.data();
}

}  // namespace

std::string_view alarm_cause_name(AlarmCause cause) {
  switch (cause) {
    case AlarmCause::kErrors:
      return "errors";
    case AlarmCause::kLatency:
      return "latency";
    case AlarmCause::kDrift:
      return "drift";
  }
  return "errors";
}

size_t CanaryMonitor::bucket(double seconds) {
  if (seconds <= kLeastLatency) return 0;
  return std::min(kBuckets - 1, static_cast<size_t>(std::ceil(4 * std::log2(seconds / kLeastLatency))));
}

double CanaryMonitor::bucket_top(size_t index) { return kLeastLatency * std::exp2(static_cast<double>(index) / 4); }

double CanaryMonitor::Moments::error() const {
  if (count < 2) return 0;
  const auto n = static_cast<double>(count);
  return std::sqrt(std::max(0.0, squares / n - mean() * mean()) / (n - 1));
}

void CanaryMonitor::Tally::add(const Tally& other) {
  requests += other.requests;
  failed += other.failed;
  for (size_t i = 0; i < kBuckets; ++i) latency[i] += other.latency[i];
  for (const auto& [task, moments] : other.scores) {
    Moments& mine = scores[task];
    mine.sum += moments.sum;
    mine.squares += moments.squares;
    mine.count += moments.count;
  }
}

double CanaryMonitor::Tally::p99() const {
  const double within = static_cast<double>(answered()) * (1 - kTail);
  double seen = 0;
  for (size_t i = 0; i < kBuckets; ++i) {
    seen += static_cast<double>(latency[i]);
    if (seen >= within) return bucket_top(i);
  }
  return bucket_top(kBuckets - 1);
}

int64_t CanaryMonitor::Tally::slower_than(double seconds) const {
  int64_t count = 0;
  for (size_t i = bucket(seconds) + 1; i < kBuckets; ++i) count += latency[i];
  return count;
}

void CanaryMonitor::turn(Clock::time_point now) {
  if (now - turned_ < rules_.window) return;
  before_ = now - turned_ < 2 * rules_.window ? std::exchange(now_, {}) : Window{};
  now_ = {};
  turned_ = now;
}

void CanaryMonitor::answered(Arm arm, Outcome outcome, double seconds, Clock::time_point now) {
  const bool failed = is_failure(outcome);
  if (!failed && outcome != Outcome::kOk) return;
  std::lock_guard lock(mutex_);
  turn(now);
  Tally& tally = now_.arms[static_cast<size_t>(arm)];
  ++tally.requests;
  if (failed) {
    ++tally.failed;
  } else {
    ++tally.latency[bucket(seconds)];
  }
}

void CanaryMonitor::scored(Arm arm, std::string_view task, double mean, Clock::time_point now) {
  std::lock_guard lock(mutex_);
  turn(now);
  auto& scores = now_.arms[static_cast<size_t>(arm)].scores;
  auto found = scores.find(task);
  if (found == scores.end()) found = scores.emplace(std::string(task), Moments{}).first;
  found->second.sum += mean;
  found->second.squares += mean * mean;
  ++found->second.count;
}

std::optional<Alarm> CanaryMonitor::judge(Clock::time_point now) {
  Tally stable;
  Tally canary;
  {
    std::lock_guard lock(mutex_);
    turn(now);
    for (const Window* window : {&before_, &now_}) {
      stable.add(window->arms[static_cast<size_t>(Arm::kStable)]);
      canary.add(window->arms[static_cast<size_t>(Arm::kCanary)]);
    }
  }
  if (auto alarm = errors(stable, canary)) return alarm;
  if (auto alarm = latency(stable, canary)) return alarm;
  return drift(stable, canary);
}

std::optional<Alarm> CanaryMonitor::errors(const Tally& stable, const Tally& canary) const {
  if (rules_.error_rate <= 0 || canary.requests < rules_.min_requests) return std::nullopt;
  const double usual = stable.requests == 0 ? 0 : stable.failed_share();
  const double allowed = std::min(1.0, usual + rules_.error_rate);
  if (static_cast<double>(canary.failed) <= beyond_chance(static_cast<double>(canary.requests), allowed)) {
    return std::nullopt;
  }
  return Alarm{
      AlarmCause::kErrors,
      format("%.2f %% of its %lld requests failed; %.2f %% of those of the stable version do, and %.2f %% more "
             "are allowed",
             100 * canary.failed_share(), static_cast<long long>(canary.requests), 100 * usual,
             100 * rules_.error_rate)};
}

std::optional<Alarm> CanaryMonitor::latency(const Tally& stable, const Tally& canary) const {
  if (rules_.latency_ratio <= 0) return std::nullopt;
  if (std::min(stable.answered(), canary.answered()) < rules_.min_requests) return std::nullopt;
  const double usual = stable.p99();
  const double allowed = std::max(usual * rules_.latency_ratio, usual + kLatencyMargin);
  const auto slow = static_cast<double>(canary.slower_than(allowed));
  if (slow <= beyond_chance(static_cast<double>(canary.answered()), kTail)) return std::nullopt;
  return Alarm{
      AlarmCause::kLatency,
      format("p99 of its %lld requests is %.3g ms; that of the stable version is %.3g ms, and %.3g times as "
             "much is allowed",
             static_cast<long long>(canary.answered()), 1e3 * canary.p99(), 1e3 * usual, rules_.latency_ratio)};
}

std::optional<Alarm> CanaryMonitor::drift(const Tally& stable, const Tally& canary) const {
  if (rules_.drift <= 0) return std::nullopt;
  for (const auto& [task, mine] : canary.scores) {
    auto found = stable.scores.find(task);
    if (found == stable.scores.end()) continue;
    const Moments& usual = found->second;
    if (std::min(mine.count, usual.count) < rules_.min_requests || usual.mean() <= 0) continue;
    const double difference = std::abs(mine.mean() - usual.mean());
    const double chance = kErrors * std::hypot(mine.error(), usual.error());
    if (difference <= rules_.drift * usual.mean() + chance) continue;
    return Alarm{
        AlarmCause::kDrift,
        format("task %.64s: the mean prediction over %lld requests is %.4g; that of the stable version is "
               "%.4g, and a difference of %.3g %% is allowed",
               task.c_str(), static_cast<long long>(mine.count), mine.mean(), usual.mean(), 100 * rules_.drift)};
  }
  return std::nullopt;
}

}  // namespace smt::server
