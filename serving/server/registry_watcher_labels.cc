// The canary: which version the registry's label names, and when it is taken out of service.
#include <utility>

#include "log.h"
#include "registry_watcher.h"

namespace smt::server {

using Clock = std::chrono::steady_clock;

const RegistryWatcher::Resident* RegistryWatcher::active_canary(const Scenario& scenario) {
  const Labelled& canary = scenario.canary;
  if (!canary.asked || canary.asked->version == scenario.serving || canary.asked->version == canary.withdrawn) {
    return nullptr;
  }
  auto found = scenario.resident.find(canary.asked->version);
  return found == scenario.resident.end() ? nullptr : &found->second;
}

void RegistryWatcher::follow_canary(const std::string& name, Scenario& scenario, const Pointer<Label>& pointer,
                                    const std::stop_token& stop) {
  Labelled& canary = scenario.canary;
  bool changed = false;
  if (pointer.error) {
    // What it named before goes on: to move a label is an act of publishing, not the damage of a file.
    if (canary.refusal && canary.refusal->message == pointer.error->what()) return;
    refuse_canary(name, scenario,
                  std::make_unique<Refusal>(Refusal{.version = "",
                                                    .message = pointer.error->what(),
                                                    .reason = pointer.error->reason(),
                                                    .files = {},
                                                    .when = Clock::now()}));
  } else if (pointer.value != canary.asked) {
    changed = true;
    if (pointer.value && canary.asked && pointer.value->version == canary.asked->version) {
      canary.asked = pointer.value;  // another share of the same version
    } else {
      canary = {.asked = pointer.value, .refusal = {}, .withdrawn = {}, .monitor = {}, .compared_with = {}};
    }
  }
  changed |= load_canary(name, scenario, stop);
  if (changed) settle(name, scenario);
  if (active_canary(scenario) == nullptr) return;
  if (std::optional<Alarm> alarm = canary.monitor->judge()) withdraw_canary(name, scenario, *alarm);
}

// True when the version that the label names has become resident.
bool RegistryWatcher::load_canary(const std::string& name, Scenario& scenario, const std::stop_token& stop) {
  Labelled& canary = scenario.canary;
  if (!canary.asked) return false;
  const std::string version = canary.asked->version;
  if (version == scenario.serving || version == canary.withdrawn) return false;
  if (scenario.resident.contains(version)) return canary.monitor == nullptr;
  if (canary.refusal && still_refused(*canary.refusal, version)) return false;
  bool fresh = false;
  std::unique_ptr<Refusal> refusal;
  switch (load(name, version, stop, fresh, refusal)) {
    case Loaded::kStopped:
      return false;
    case Loaded::kRefused:
      refuse_canary(name, scenario, std::move(refusal));
      return false;
    case Loaded::kYes:
      break;
  }
  canary.refusal.reset();
  log::info("canary_loaded", {{"scenario", name}, {"version", version}, {"percent", canary.asked->percent}});
  return true;
}

void RegistryWatcher::refuse_canary(const std::string& name, Scenario& scenario, std::unique_ptr<Refusal> refusal) {
  observer_.refused(name, refusal->reason, true);
  log::error("canary_refused", {{"scenario", name},
                                {"version", refusal->version},
                                {"cause", reason_name(refusal->reason)},
                                {"reason", refusal->message},
                                {"serving", scenario.serving}});
  scenario.canary.refusal = std::move(refusal);
}

void RegistryWatcher::withdraw_canary(const std::string& name, Scenario& scenario, const Alarm& alarm) {
  const std::string version = scenario.canary.asked->version;
  scenario.canary.withdrawn = version;
  set_routes(name, scenario);  // no request is given to it from here on
  const std::string cause(alarm_cause_name(alarm.cause));
  release(scenario, scenario.resident.find(version), "rolled back: " + cause + ": " + alarm.message);
  observer_.rolled_back(name, alarm.cause);
  log::error("canary_rolled_back", {{"scenario", name},
                                    {"version", version},
                                    {"cause", cause},
                                    {"reason", alarm.message},
                                    {"serving", scenario.serving}});
}

void RegistryWatcher::set_routes(const std::string& name, Scenario& scenario) {
  Labelled& canary = scenario.canary;
  const Resident* active = active_canary(scenario);
  if (active == nullptr || scenario.serving.empty()) {
    canary.monitor.reset();
    return store_.set_labels(name, nullptr);
  }
  if (!canary.monitor || canary.compared_with != scenario.serving) {
    canary.monitor = std::make_shared<CanaryMonitor>(rules_.canary);
    canary.compared_with = scenario.serving;
  }
  store_.set_labels(
      name, std::make_shared<LabelRoutes>(
                LabelRoutes{.canary = active->snapshot, .percent = canary.asked->percent, .monitor = canary.monitor}));
}

}  // namespace smt::server
