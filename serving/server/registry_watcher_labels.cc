// The labels canary and shadow: which versions the registry names, and when they are taken out of service.
#include <utility>

#include "log.h"
#include "registry_watcher.h"

namespace smt::server {

using Clock = std::chrono::steady_clock;

const RegistryWatcher::Resident* RegistryWatcher::beside_stable(const Scenario& scenario, const Labelled& labelled) {
  if (!labelled.asked || labelled.asked->version == scenario.serving) return nullptr;
  auto found = scenario.resident.find(labelled.asked->version);
  return found == scenario.resident.end() ? nullptr : &found->second;
}

const RegistryWatcher::Resident* RegistryWatcher::active_canary(const Scenario& scenario) {
  const Canary& canary = scenario.canary;
  if (canary.asked && canary.asked->version == canary.withdrawn) return nullptr;
  return beside_stable(scenario, canary);
}

bool RegistryWatcher::read_label(const std::string& name, Scenario& scenario, std::string_view label,
                                 const Pointer<Label>& pointer, Labelled& labelled) {
  if (pointer.error) {
    // What it named before goes on: to move a label is an act of publishing, not the damage of a file.
    if (labelled.refusal && labelled.refusal->message == pointer.error->what()) return false;
    refuse_labelled(name, scenario, label, labelled,
                    {.version = "",
                     .message = pointer.error->what(),
                     .reason = pointer.error->reason(),
                     .files = {},
                     .when = Clock::now()});
    return false;
  }
  const bool other = !pointer.value || !labelled.asked ? pointer.value.has_value() != labelled.asked.has_value()
                                                       : pointer.value->version != labelled.asked->version;
  labelled.asked = pointer.value;
  if (other) labelled.refusal.reset();
  return other;
}

bool RegistryWatcher::load_labelled(const std::string& name, Scenario& scenario, std::string_view label,
                                    Labelled& labelled, const std::stop_token& stop, Room room) {
  const std::string version = labelled.asked->version;
  if (version == scenario.serving || scenario.resident.contains(version)) return false;
  if (labelled.refusal && still_refused(*labelled.refusal, version)) return false;
  bool fresh = false;
  std::unique_ptr<Refusal> refusal;
  switch (load(name, version, registry_.snapshot_dir(name, version), stop, fresh, refusal, room)) {
    case Loaded::kStopped:
      return false;
    case Loaded::kRefused:
      refuse_labelled(name, scenario, label, labelled, std::move(*refusal));
      return false;
    case Loaded::kYes:
      break;
  }
  labelled.refusal.reset();
  log::info(std::string(label) + "_loaded",
            {{"scenario", name}, {"version", version}, {"percent", labelled.asked->percent}});
  return true;
}

void RegistryWatcher::refuse_labelled(const std::string& name, const Scenario& scenario, std::string_view label,
                                      Labelled& labelled, Refusal refusal) {
  observer_.refused(name, refusal.reason, true);
  log::error(std::string(label) + "_refused", {{"scenario", name},
                                               {"version", refusal.version},
                                               {"cause", reason_name(refusal.reason)},
                                               {"reason", refusal.message},
                                               {"serving", scenario.serving}});
  labelled.refusal = std::make_unique<Refusal>(std::move(refusal));
}

void RegistryWatcher::follow_canary(const std::string& name, Scenario& scenario, const Pointer<Label>& pointer,
                                    const std::stop_token& stop) {
  Canary& canary = scenario.canary;
  const std::optional<Label> before = canary.asked;
  if (read_label(name, scenario, kCanary, pointer, canary)) {
    canary.withdrawn.clear();
    canary.monitor.reset();
    canary.compared_with.clear();
  }
  bool changed = canary.asked != before;
  if (!pointer.error && canary.asked && canary.asked->version != canary.withdrawn) {
    changed |= load_labelled(name, scenario, kCanary, canary, stop, Room::kMake);
    // Resident for another reason, it answers from now on.
    changed |= beside_stable(scenario, canary) != nullptr && canary.monitor == nullptr;
  }
  if (changed) settle(name, scenario);
  if (active_canary(scenario) == nullptr) return;
  if (std::optional<Alarm> alarm = canary.monitor->judge()) withdraw_canary(name, scenario, *alarm);
}

void RegistryWatcher::follow_shadow(const std::string& name, Scenario& scenario, const Pointer<Label>& pointer,
                                    const std::stop_token& stop) {
  Labelled& shadow = scenario.shadow;
  const std::optional<Label> before = shadow.asked;
  read_label(name, scenario, kShadow, pointer, shadow);
  bool changed = shadow.asked != before;
  if (!pointer.error && shadow.asked) {
    changed |= load_labelled(name, scenario, kShadow, shadow, stop, Room::kFree);
    changed |= beside_stable(scenario, shadow) != nullptr && scenario.shadow_route == nullptr;
  }
  if (changed) settle(name, scenario);
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
  set_shadow(name, scenario);
  Canary& canary = scenario.canary;
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

void RegistryWatcher::set_shadow(const std::string& name, Scenario& scenario) {
  const Resident* shadow = beside_stable(scenario, scenario.shadow);
  if (shadow == nullptr || scenario.serving.empty()) {
    scenario.shadow_route.reset();
    return store_.set_shadow(name, nullptr);
  }
  const ShadowRoute* old = scenario.shadow_route.get();
  const bool same_pair = old != nullptr && old->shadow == shadow->snapshot && old->compared_with == scenario.serving;
  if (same_pair && old->percent == scenario.shadow.asked->percent) return;
  const std::shared_ptr<const LoadedSnapshot>& stable = scenario.resident.at(scenario.serving).snapshot;
  scenario.shadow_route = std::make_shared<const ShadowRoute>(
      ShadowRoute{.shadow = shadow->snapshot,
                  .percent = scenario.shadow.asked->percent,
                  .compared_with = scenario.serving,
                  .divergence = same_pair ? old->divergence
                                          : std::make_shared<Divergence>(common_tasks(*stable, *shadow->snapshot))});
  store_.set_shadow(name, scenario.shadow_route);
}

}  // namespace smt::server
