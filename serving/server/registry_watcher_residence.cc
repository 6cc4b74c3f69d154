// What is resident: loading within the limit of memory, the states of versions, and letting go of them.
#include <utility>

#include "log.h"
#include "names.h"
#include "registry_watcher.h"

namespace smt::server {
namespace {

using Clock = std::chrono::steady_clock;

// How long a load waits for memory that is being given back. What takes longer is held by requests.
constexpr std::chrono::milliseconds kFreeing{2000};
// How long what was loaded ahead waits for its publication to end.
constexpr std::chrono::minutes kNextPatience{1};

std::string mebibytes(int64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

}  // namespace

RegistryWatcher::Loaded RegistryWatcher::load(const std::string& name, const std::string& version,
                                              const std::filesystem::path& folder, const std::stop_token& stop,
                                              bool& fresh, std::unique_ptr<Refusal>& refusal, Room room) {
  if (scenarios_[name].resident.contains(version)) return Loaded::kYes;
  fresh = true;
  const Lifecycle::Id id = lifecycle_.discover(name, version);
  lifecycle_.move(id, VersionState::kVerifying);
  auto admit = [&](int64_t resident, int64_t passing) {
    if (!make_room(resident + passing, room)) {
      throw Refused(Reason::kMemory, "scenario " + quote(name) + " version " + version + ": needs " +
                                         mebibytes(resident + passing) + " of memory for weights; " +
                                         mebibytes(lifecycle_.resident_bytes()) + " are in use and the limit is " +
                                         mebibytes(rules_.memory_limit) + " (--memory-limit)");
    }
    lifecycle_.set_bytes(id, {.own = resident + passing, .shared = {}});
    lifecycle_.move(id, VersionState::kLoading);
  };
  TouchedFiles touched;
  try {
    auto snapshot = load_(name, version, folder, touched, stop, admit);
    if (stop.stop_requested()) {
      snapshot.reset();
      lifecycle_.move(id, VersionState::kUnloaded, "given up while it was loaded");
      return Loaded::kStopped;
    }
    lifecycle_.set_bytes(id, snapshot->held_bytes());
    lifecycle_.move(id, VersionState::kWarm);
    auto adopted = reaper_.adopt(std::move(snapshot), [this_ledger = &lifecycle_, id] { this_ledger->freed(id); });
    scenarios_[name].resident.emplace(version, Resident{.snapshot = std::move(adopted), .id = id});
    return Loaded::kYes;
  } catch (const Refused& error) {
    if (stop.stop_requested()) {  // not the snapshot's fault
      lifecycle_.move(id, VersionState::kUnloaded, "given up while it was loaded");
      return Loaded::kStopped;
    }
    // Of what nobody asks for yet nothing is wrong yet: it is looked at again where `current` finds it.
    const bool ahead = folder != registry_.snapshot_dir(name, version);
    lifecycle_.move(id, ahead ? VersionState::kUnloaded : VersionState::kRefused, error.what());
    refusal = std::make_unique<Refusal>(Refusal{.version = version,
                                                .message = error.what(),
                                                .reason = error.reason(),
                                                .files = std::move(touched),
                                                .when = Clock::now()});
    return Loaded::kRefused;
  }
}

bool RegistryWatcher::is_ahead(const Scenario& scenario, const std::string& version) {
  return scenario.ahead.held && scenario.ahead.version == version && scenario.resident.contains(version);
}

void RegistryWatcher::load_ahead(const std::string& name, Scenario& scenario, const std::optional<NextVersion>& next,
                                 const std::stop_token& stop) {
  Ahead& ahead = scenario.ahead;
  const std::string asked = next ? next->version : "";
  const bool late = ahead.held && Clock::now() - ahead.since > kNextPatience;
  if (asked == ahead.version && !late) return;
  const bool held = std::exchange(ahead.held, false);
  if (held) settle(name, scenario);  // lets go of it, unless it has another role by now
  if (asked == ahead.version) return;
  ahead = {};
  if (asked.empty() || scenario.resident.contains(asked)) return;
  bool fresh = false;
  std::unique_ptr<Refusal> refusal;
  const Loaded loaded = load(name, asked, next->folder, stop, fresh, refusal, Room::kFree);
  if (loaded == Loaded::kStopped) return;
  ahead = {.version = asked, .held = loaded == Loaded::kYes, .since = Clock::now()};
  if (loaded == Loaded::kRefused) {
    log::info("snapshot_not_loaded_ahead", {{"scenario", name}, {"version", asked}, {"reason", refusal->message}});
  }
}

void RegistryWatcher::settle(const std::string& name, Scenario& scenario) {
  set_routes(name, scenario);  // before what they leave is let go of
  const Resident* canary = active_canary(scenario);
  const Resident* shadow = beside_stable(scenario, scenario.shadow);
  for (auto next = scenario.resident.begin(); next != scenario.resident.end();) {
    auto at = next++;
    auto& [version, resident] = *at;
    const VersionState state = lifecycle_.state(resident.id);
    if (version == scenario.serving || &resident == canary || &resident == shadow) {
      lifecycle_.set_label(resident.id, version == scenario.serving ? kStable
                                        : &resident == canary       ? kCanary
                                                                    : kShadow);
      if (state == VersionState::kWarm) lifecycle_.move(resident.id, VersionState::kServing);
    } else if (is_ahead(scenario, version) && !scenario.unloaded && !scenario.pinned) {
      // It stays as it is, warm.
    } else if (version == scenario.previous && rules_.keep_warm && !scenario.unloaded) {
      if (state == VersionState::kServing) {
        lifecycle_.move(resident.id, VersionState::kWarm);
        resident.warm_since = Clock::now();
      }
    } else {
      release(scenario, at);
    }
  }
}

void RegistryWatcher::release(Scenario& scenario, std::map<std::string, Resident>::iterator resident,
                              const std::string& cause) {
  lifecycle_.drain(resident->second.id, cause);
  scenario.resident.erase(resident);  // freed by the reaper, now or when the last request that uses it is done
}

bool RegistryWatcher::make_room(int64_t bytes, Room room) {
  if (rules_.memory_limit == 0) return true;
  auto fits = [&] { return lifecycle_.resident_bytes() + bytes <= rules_.memory_limit; };
  while (!fits()) {
    reaper_.wait_idle(kFreeing);
    if (fits()) break;
    if (room == Room::kFree || (!give_up_shadow() && !give_up_warm())) return false;
  }
  return true;
}

bool RegistryWatcher::give_up_shadow() {
  for (auto& [name, scenario] : scenarios_) {
    const Resident* shadow = beside_stable(scenario, scenario.shadow);
    if (shadow == nullptr || shadow == active_canary(scenario)) continue;
    const std::string version = scenario.shadow.asked->version;
    const std::string message = "its memory was needed for another version";
    // Before it is let go of: the store refers to it. It is loaded again when there is memory.
    refuse_labelled(
        name, scenario, kShadow, scenario.shadow,
        {.version = version, .message = message, .reason = Reason::kMemory, .files = {}, .when = Clock::now()});
    scenario.shadow_route.reset();
    store_.set_shadow(name, nullptr);
    release(scenario, scenario.resident.find(version), message);
    return true;
  }
  return false;
}

bool RegistryWatcher::give_up_warm() {
  Scenario* owner = nullptr;
  std::map<std::string, Resident>::iterator oldest;
  for (auto& [name, scenario] : scenarios_) {
    for (auto at = scenario.resident.begin(); at != scenario.resident.end(); ++at) {
      if (lifecycle_.state(at->second.id) != VersionState::kWarm) continue;
      if (owner != nullptr && at->second.warm_since >= oldest->second.warm_since) continue;
      owner = &scenario;
      oldest = at;
    }
  }
  if (owner == nullptr) return false;
  release(*owner, oldest);
  return true;
}

}  // namespace smt::server
