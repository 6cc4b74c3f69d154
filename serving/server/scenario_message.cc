#include "scenario_message.h"

#include <string>

namespace smt::server {

std::string_view state_name(ScenarioState state) {
  switch (state) {
    case ScenarioState::kLoading:
      return "LOADING";
    case ScenarioState::kServing:
      return "SERVING";
    case ScenarioState::kUnavailable:
      return "UNAVAILABLE";
    case ScenarioState::kUnloaded:
      return "UNLOADED";
  }
  return "UNAVAILABLE";
}

namespace {

void fill_shadow(const ShadowRoute& route, v1::ShadowStatus& out) {
  const DivergenceFigures figures = route.divergence->figures();
  out.set_version(route.shadow->version);
  out.set_compared_with(route.compared_with);
  out.set_percent(route.percent);
  out.set_compared(figures.compared);
  out.set_dropped(figures.dropped);
  out.set_failed(figures.failed);
  out.set_failure(figures.failure);
  out.set_rows(figures.rows);
  const double rows = figures.rows == 0 ? 1 : static_cast<double>(figures.rows);
  for (const TaskDivergence& task : figures.tasks) {
    v1::TaskDivergence* each = out.add_tasks();
    each->set_task(task.task);
    each->set_mean_difference(task.sum_difference / rows);
    each->set_max_difference(task.max_difference);
    each->set_mean_stable(task.sum_stable / rows);
    each->set_mean_shadow(task.sum_shadow / rows);
  }
  for (double bound : kDifferenceBounds) out.add_bounds(bound);
  for (int64_t count : figures.differences) out.add_counts(count);
}

}  // namespace

void fill_status(const ScenarioStatus& status, const std::vector<VersionStatus>& versions, v1::ScenarioStatus& out) {
  out.set_scenario(status.scenario);
  out.set_version(status.version);
  out.set_state(std::string(state_name(status.state)));
  out.set_refused_version(status.refused_version);
  out.set_refused_reason(status.refused_reason);
  out.set_abi_hash(status.abi_hash);
  out.set_weight_bytes(status.weight_bytes);
  out.set_loads(status.loads);
  if (status.shadow) fill_shadow(*status.shadow, *out.mutable_shadow());
  for (const VersionStatus& version : versions) {
    v1::VersionStatus* each = out.add_versions();
    each->set_version(version.version);
    each->set_state(std::string(version_state_name(version.state)));
    each->set_since_unix_ms(
        std::chrono::duration_cast<std::chrono::milliseconds>(version.since.time_since_epoch()).count());
    each->set_weight_bytes(version.bytes);
    each->set_label(version.label);
    each->set_reason(version.reason);
  }
}

}  // namespace smt::server
