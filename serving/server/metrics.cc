#include "metrics.h"

#include <algorithm>

namespace smt::server {
namespace {

using prometheus::Histogram;

const Histogram::BucketBoundaries& buckets() {
  static const Histogram::BucketBoundaries kSeconds{50e-6, 100e-6, 250e-6, 500e-6, 1e-3,   2.5e-3, 5e-3, 10e-3,
                                                    25e-3, 50e-3,  100e-3, 250e-3, 500e-3, 1,      2.5,  10};
  return kSeconds;
}

prometheus::Family<prometheus::Counter>& counter(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}
prometheus::Family<prometheus::Gauge>& gauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}
prometheus::Family<Histogram>& histogram(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

class Refreshed final : public prometheus::Collectable {
 public:
  Refreshed(std::function<void()> refresh, std::shared_ptr<prometheus::Registry> registry)
      : refresh_(std::move(refresh)), registry_(std::move(registry)) {}
  std::vector<prometheus::MetricFamily> Collect() const override {
    refresh_();
    return registry_->Collect();
  }

 private:
  std::function<void()> refresh_;
  std::shared_ptr<prometheus::Registry> registry_;
};

}  // namespace

Metrics::Metrics()
    : registry_(std::make_shared<prometheus::Registry>()),
      requests_(counter(*registry_, "smt_requests_total", "Requests to score, by scenario and gRPC status.")),
      rows_(counter(*registry_, "smt_rows_total", "Candidates scored.")),
      late_rows_(counter(*registry_, "smt_late_rows_total",
                         "Candidates whose deadline passed while they were computed; answered DEADLINE_EXCEEDED.")),
      failed_seconds_(counter(*registry_, "smt_failed_seconds_total",
                              "Time from arrival to answer of requests whose status was not OK.")),
      loads_(counter(*registry_, "smt_snapshot_loads_total", "Snapshots loaded and put into service.")),
      refused_(counter(*registry_, "smt_snapshot_refused_total", "Snapshots refused, by reason.")),
      steps_(
          counter(*registry_, "smt_version_states_total", "Versions that came into a state, by scenario and state.")),
      canary_requests_(counter(*registry_, "smt_canary_requests_total",
                               "Requests that chance gave to the canary, by scenario and gRPC status.")),
      rollbacks_(counter(*registry_, "smt_canary_rollbacks_total",
                         "Canaries that an alarm took out of service, by scenario and cause.")),
      shadow_requests_(counter(*registry_, "smt_shadow_requests_total",
                               "Answered requests that a shadow was to score again, by scenario and result.")),
      control_(counter(*registry_, "smt_control_total", "Calls to the control listener, by method and gRPC status.")),
      queue_requests_(gauge(*registry_, "smt_queue_requests", "Requests waiting for a worker, by scenario.")),
      queue_rows_(gauge(*registry_, "smt_queue_rows", "Candidates waiting for a worker, by scenario.")),
      weight_bytes_(gauge(*registry_, "smt_weight_bytes", "Bytes of weights being served.")),
      created_(gauge(*registry_, "smt_snapshot_created_timestamp_seconds", "When the snapshot being served was made.")),
      shadow_difference_max_(gauge(*registry_, "smt_shadow_difference_max",
                                   "Largest |shadow - stable| of the two versions that are compared.")),
      shadow_mean_(gauge(*registry_, "smt_shadow_mean_prediction",
                         "Mean prediction over all tasks, of the stable version and of the shadow.")),
      kernels_(gauge(*registry_, "smt_kernels_info", "Always 1; the label names the CPU kernels in use.")),
      certificate_expiry_(gauge(*registry_, "smt_tls_certificate_expiry_timestamp_seconds",
                                "When the certificate that a listener uses expires.")),
      shadow_difference_(histogram(*registry_, "smt_shadow_difference", "|shadow - stable| of each score.")),
      request_seconds_(histogram(*registry_, "smt_request_seconds", "Requests to score, from arrival to answer.")),
      queue_seconds_(histogram(*registry_, "smt_queue_seconds", "Waiting for a worker.")),
      transform_seconds_(histogram(*registry_, "smt_transform_seconds",
                                   "Transforming features, for the batches that a request was in.")),
      compute_seconds_(histogram(*registry_, "smt_compute_seconds",
                                 "Running the template binary, for the batches that a request was in.")),
      block_rows_(&histogram(*registry_, "smt_block_rows", "Rows of a call of a template binary, padding included.")
                       .Add({}, Histogram::BucketBoundaries{1, 16, 32, 64, 128, 256, 512, 1024})),
      padding_rows_(&counter(*registry_, "smt_padding_rows_total",
                             "Rows computed for nobody, between those of different scenarios.")
                         .Add({})),
      expired_rows_(&counter(*registry_, "smt_expired_rows_total",
                             "Candidates whose deadline had passed when their compute began.")
                         .Add({})),
      queue_depth_(&gauge(*registry_, "smt_queue_depth", "Requests waiting for a worker.").Add({})),
      inflight_(&gauge(*registry_, "smt_inflight", "Calls that score, not answered yet.").Add({})),
      scenarios_(&gauge(*registry_, "smt_scenarios", "Scenarios being served.").Add({})),
      resident_bytes_(&gauge(*registry_, "smt_resident_bytes",
                             "Bytes of weights in memory: served, warm, being loaded, or draining.")
                           .Add({})),
      unknown_(&add("_unknown")) {}

ScenarioMetrics Metrics::make(const std::string& scenario) {
  prometheus::Labels labels{{"scenario", scenario}};
  ScenarioMetrics made{};
  for (size_t i = 0; i < kOutcomeNames.size(); ++i) {
    const prometheus::Labels of_code{{"scenario", scenario}, {"code", std::string(kOutcomeNames[i])}};
    made.requests[i] = &requests_.Add(of_code);
    made.canary_requests[i] = &canary_requests_.Add(of_code);
  }
  for (Reason reason : kAllReasons) {
    made.refused[static_cast<size_t>(reason)] =
        &refused_.Add({{"scenario", scenario}, {"reason", std::string(reason_name(reason))}});
  }
  for (VersionState state : kAllVersionStates) {
    made.steps[static_cast<size_t>(state)] =
        &steps_.Add({{"scenario", scenario}, {"state", std::string(version_state_name(state))}});
  }
  made.rows = &rows_.Add(labels);
  made.late_rows = &late_rows_.Add(labels);
  made.failed_seconds = &failed_seconds_.Add(labels);
  made.loads = &loads_.Add(labels);
  made.queue_requests = &queue_requests_.Add(labels);
  made.queue_rows = &queue_rows_.Add(labels);
  made.weight_bytes = &weight_bytes_.Add(labels);
  made.created = &created_.Add(labels);
  for (size_t i = 0; i < kShadowResultNames.size(); ++i) {
    made.shadow_requests[i] =
        &shadow_requests_.Add({{"scenario", scenario}, {"result", std::string(kShadowResultNames[i])}});
  }
  made.shadow_difference =
      &shadow_difference_.Add(labels, Histogram::BucketBoundaries(kDifferenceBounds.begin(), kDifferenceBounds.end()));
  made.shadow_difference_max = &shadow_difference_max_.Add(labels);
  made.shadow_mean_stable = &shadow_mean_.Add({{"scenario", scenario}, {"of", "stable"}});
  made.shadow_mean_shadow = &shadow_mean_.Add({{"scenario", scenario}, {"of", "shadow"}});
  made.request_seconds = &request_seconds_.Add(labels, buckets());
  made.queue_seconds = &queue_seconds_.Add(labels, buckets());
  made.transform_seconds = &transform_seconds_.Add(labels, buckets());
  made.compute_seconds = &compute_seconds_.Add(labels, buckets());
  return made;
}

void ScenarioMetrics::diverged(const DivergenceStep& step, const DivergenceFigures& figures) {
  shadow_difference->ObserveMultiple({step.differences.begin(), step.differences.end()}, step.sum_difference);
  double max = 0;
  double stable = 0;
  double shadow = 0;
  for (const TaskDivergence& task : figures.tasks) {
    max = std::max(max, task.max_difference);
    stable += task.sum_stable;
    shadow += task.sum_shadow;
  }
  const double scores = static_cast<double>(figures.rows) * static_cast<double>(figures.tasks.size());
  if (scores == 0) return;
  shadow_difference_max->Set(max);
  shadow_mean_stable->Set(stable / scores);
  shadow_mean_shadow->Set(shadow / scores);
}

void Metrics::observe_block(int64_t rows, int64_t padding, int64_t expired) {
  block_rows_->Observe(static_cast<double>(rows));
  padding_rows_->Increment(static_cast<double>(padding));
  expired_rows_->Increment(static_cast<double>(expired));
}

void Metrics::set_kernels(const std::string& name) { kernels_.Add({{"name", name}}).Set(1); }

prometheus::Counter& Metrics::rollbacks(const std::string& scenario, std::string_view cause) {
  return rollbacks_.Add({{"scenario", scenario}, {"cause", std::string(cause)}});
}

// Add() gives the series there is, if there is one.
prometheus::Counter& Metrics::control(const std::string& method, const std::string& code) {
  return control_.Add({{"method", method}, {"code", code}});
}

prometheus::Gauge& Metrics::certificate_expiry(const std::string& listener) {
  return certificate_expiry_.Add({{"listener", listener}});
}

std::shared_ptr<prometheus::Collectable> Metrics::collectable(std::function<void(Metrics&)> refresh) {
  return std::make_shared<Refreshed>([this, refresh = std::move(refresh)] { refresh(*this); }, registry_);
}

ScenarioMetrics& Metrics::add(const std::string& scenario) {
  std::lock_guard lock(mutex_);
  auto it = by_scenario_.find(scenario);
  if (it == by_scenario_.end()) it = by_scenario_.emplace(scenario, make(scenario)).first;
  return it->second;
}

ScenarioMetrics& Metrics::find(std::string_view scenario) {
  std::lock_guard lock(mutex_);
  auto it = by_scenario_.find(scenario);
  return it == by_scenario_.end() ? *unknown_ : it->second;
}

}  // namespace smt::server
