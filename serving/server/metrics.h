// Prometheus metrics. Every label has a bounded set of values: scenario names come from the registry (what clients send
// is counted under "_unknown"), versions are never labels.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "divergence.h"
#include "refusal.h"
#include "version_state.h"

namespace smt::server {

// The statuses that requests to score are answered with.
enum class Outcome {
  kOk,
  kCancelled,
  kInvalidArgument,
  kDeadlineExceeded,
  kNotFound,
  kResourceExhausted,
  kInternal,
  kUnavailable,
};
inline constexpr std::array<std::string_view, 8> kOutcomeNames{
    "OK",        "CANCELLED",          "INVALID_ARGUMENT", "DEADLINE_EXCEEDED",
    "NOT_FOUND", "RESOURCE_EXHAUSTED", "INTERNAL",         "UNAVAILABLE"};

// What became of an answered request that a shadow was to score again.
enum class ShadowResult {
  kCompared,
  kDropped,  // there was no time, or the shadow was taken away
  kFailed,   // the shadow refuses what the stable version has answered, or its code failed
};
inline constexpr std::array<std::string_view, 3> kShadowResultNames{"compared", "dropped", "failed"};

// The series of one scenario. Thread-safe; lives as long as the Metrics.
struct ScenarioMetrics {
  std::array<prometheus::Counter*, kOutcomeNames.size()> requests;
  std::array<prometheus::Counter*, std::size(kAllReasons)> refused;
  std::array<prometheus::Counter*, kAllVersionStates.size()> steps;
  std::array<prometheus::Counter*, kOutcomeNames.size()> canary_requests;
  prometheus::Counter* rows;
  prometheus::Counter* late_rows;
  prometheus::Counter* failed_seconds;  // the part of request_seconds that ended in another status than OK
  prometheus::Counter* loads;
  prometheus::Gauge* queue_requests;
  prometheus::Gauge* queue_rows;
  prometheus::Gauge* weight_bytes;
  prometheus::Gauge* created;
  std::array<prometheus::Counter*, kShadowResultNames.size()> shadow_requests;
  prometheus::Histogram* shadow_difference;
  prometheus::Gauge* shadow_difference_max;
  prometheus::Gauge* shadow_mean_stable;
  prometheus::Gauge* shadow_mean_shadow;
  prometheus::Histogram* request_seconds;
  prometheus::Histogram* queue_seconds;
  prometheus::Histogram* transform_seconds;
  prometheus::Histogram* compute_seconds;

  // What one request added, and what it is in all for the two versions that are compared now.
  void diverged(const DivergenceStep& step, const DivergenceFigures& figures);
  prometheus::Counter& shadow(ShadowResult result) { return *shadow_requests[static_cast<size_t>(result)]; }
  prometheus::Counter& canary(Outcome outcome) { return *canary_requests[static_cast<size_t>(outcome)]; }
  prometheus::Counter& outcome(Outcome outcome) { return *requests[static_cast<size_t>(outcome)]; }
};

// Thread-safe.
class Metrics {
 public:
  Metrics();

  // Makes the scenario's series if there are none yet. Only for names from the registry.
  ScenarioMetrics& add(const std::string& scenario);
  // The scenario's series, or those of "_unknown".
  ScenarioMetrics& find(std::string_view scenario);

  // What an exposer shows. `refresh` runs before each scrape, on the exposer's thread, to set the gauges below.
  std::shared_ptr<prometheus::Collectable> collectable(std::function<void(Metrics&)> refresh);

  // One call of a template binary: its rows, and how many of them were computed for nobody (padding), or for requests
  // whose deadline had passed.
  void observe_block(int64_t rows, int64_t padding, int64_t expired);

  prometheus::Gauge& queue_depth() { return *queue_depth_; }
  prometheus::Gauge& inflight() { return *inflight_; }
  prometheus::Gauge& scenarios() { return *scenarios_; }
  // Bytes of weights in memory, whatever their version's state.
  prometheus::Gauge& resident_bytes() { return *resident_bytes_; }
  // Canaries that an alarm took out of service. `cause` is of a fixed set.
  prometheus::Counter& rollbacks(const std::string& scenario, std::string_view cause);
  // Calls to the control listener. `method` and `code` are of fixed sets.
  prometheus::Counter& control(const std::string& method, const std::string& code);
  // When a listener's certificate expires; the series exists from the first call on. `listener`: data or control.
  prometheus::Gauge& certificate_expiry(const std::string& listener);
  // Shows the name of the CPU kernels in use, as the label of a series that is 1. Call once.
  void set_kernels(const std::string& name);

 private:
  ScenarioMetrics make(const std::string& scenario);

  std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Counter>& rows_;
  prometheus::Family<prometheus::Counter>& late_rows_;
  prometheus::Family<prometheus::Counter>& failed_seconds_;
  prometheus::Family<prometheus::Counter>& loads_;
  prometheus::Family<prometheus::Counter>& refused_;
  prometheus::Family<prometheus::Counter>& steps_;
  prometheus::Family<prometheus::Counter>& canary_requests_;
  prometheus::Family<prometheus::Counter>& rollbacks_;
  prometheus::Family<prometheus::Counter>& shadow_requests_;
  prometheus::Family<prometheus::Counter>& control_;
  prometheus::Family<prometheus::Gauge>& queue_requests_;
  prometheus::Family<prometheus::Gauge>& queue_rows_;
  prometheus::Family<prometheus::Gauge>& weight_bytes_;
  prometheus::Family<prometheus::Gauge>& created_;
  prometheus::Family<prometheus::Gauge>& shadow_difference_max_;
  prometheus::Family<prometheus::Gauge>& shadow_mean_;
  prometheus::Family<prometheus::Gauge>& kernels_;
  prometheus::Family<prometheus::Gauge>& certificate_expiry_;
  prometheus::Family<prometheus::Histogram>& shadow_difference_;
  prometheus::Family<prometheus::Histogram>& request_seconds_;
  prometheus::Family<prometheus::Histogram>& queue_seconds_;
  prometheus::Family<prometheus::Histogram>& transform_seconds_;
  prometheus::Family<prometheus::Histogram>& compute_seconds_;
  prometheus::Histogram* block_rows_;
  prometheus::Counter* padding_rows_;
  prometheus::Counter* expired_rows_;
  prometheus::Gauge* queue_depth_;
  prometheus::Gauge* inflight_;
  prometheus::Gauge* scenarios_;
  prometheus::Gauge* resident_bytes_;

  std::mutex mutex_;  // guards by_scenario_; its values never move
  std::map<std::string, ScenarioMetrics, std::less<>> by_scenario_;
  ScenarioMetrics* unknown_;
};

}  // namespace smt::server
