#include "registry_watcher.h"

#include <utility>

#include "log.h"
#include "thread_priority.h"

namespace smt::server {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

RegistryWatcher::RegistryWatcher(Registry registry, LoadFunction load, Places places, WatchObserver& observer,
                                 const Rules& rules)
    : registry_(std::move(registry)),
      load_(std::move(load)),
      store_(places.store),
      lifecycle_(places.lifecycle),
      reaper_(places.reaper),
      observer_(observer),
      rules_(rules),
      pointers_(registry_) {}

RegistryWatcher::~RegistryWatcher() {
  stop();
  for (auto& [name, scenario] : scenarios_) {
    while (!scenario.resident.empty()) release(scenario, scenario.resident.begin());
  }
}

void RegistryWatcher::start(std::chrono::milliseconds interval, std::function<void()> on_thread_start) {
  thread_ = std::jthread([this, interval, start = std::move(on_thread_start)](std::stop_token stop) {
    lower_thread_priority();
    if (start) start();
    run(std::move(stop), interval);
  });
}

void RegistryWatcher::stop() {
  request_stop();
  if (thread_.joinable()) thread_.join();
}

void RegistryWatcher::run(std::stop_token stop, std::chrono::milliseconds interval) {
  while (!stop.stop_requested()) {
    scan(stop);
    const Clock::time_point next = Clock::now() + interval;
    while (!stop.stop_requested() && Clock::now() < next) {
      changes_.wait(commands_.arrived(), next);  // which request_stop() makes readable too
      run_commands(stop);
      for (const std::string& name : changes_.take()) visit(name, stop, true);
    }
  }
}

void RegistryWatcher::scan(std::stop_token stop) {
  std::vector<std::string> ignored;
  std::vector<std::string> names;
  run_commands(stop);
  try {
    names = registry_.scenarios(ignored);
    listing_error_.clear();
  } catch (const Refused& error) {
    if (listing_error_ != error.what()) log::error("registry_unreadable", {{"reason", error.what()}});
    listing_error_ = error.what();
    return;
  }
  for (std::string& name : ignored) {
    if (ignored_.insert(name).second) {
      log::warn("scenario_ignored",
                {{"folder", name}, {"reason", "not a scenario name: 1..64 characters a-z 0-9 _ -"}});
    }
  }
  // Known scenarios whose folder went away are visited too, so that the loss is noticed.
  std::set<std::string> all(names.begin(), names.end());
  for (const auto& [name, scenario] : scenarios_) all.insert(name);
  for (const std::string& name : all) {
    run_commands(stop);
    if (stop.stop_requested()) return;
    visit(name, stop);
  }
  observer_.scanned();
}

void RegistryWatcher::visit(const std::string& name, const std::stop_token& stop, bool told) {
  auto at = scenarios_.find(name);
  if (at != scenarios_.end() && (at->second.pinned || at->second.unloaded)) return;
  changes_.watch(name, registry_.scenario_dir(name));  // before it is read, so that no change falls between
  // Before `current`: once `next` is gone, its version is current, or does not come.
  std::optional<NextVersion> next;
  if (told || (at != scenarios_.end() && !at->second.ahead.version.empty())) next = registry_.next(name);
  const Pointers& pointers = pointers_.read(name);
  if (pointers.current.error) {
    const Refused& error = *pointers.current.error;
    if (at != scenarios_.end() && at->second.refusal && at->second.refusal->version.empty() &&
        at->second.refusal->message == error.what()) {
      return;
    }
    known(name);
    refuse(name, {.version = "", .message = error.what(), .reason = error.reason(), .files = {}, .when = Clock::now()});
    return;
  }
  const std::optional<std::string>& version = pointers.current.value;
  if (!version) {
    if (at != scenarios_.end()) pointer_missing(name, at->second);  // otherwise not published yet
    return;
  }
  Scenario& scenario = known(name);
  // What an operator needs at once goes first; the next scan begins the load again.
  std::stop_source either;
  std::stop_callback on_stop(stop, [&] { either.request_stop(); });
  std::stop_callback on_urgent(commands_.urgent(), [&] { either.request_stop(); });
  if (*version == scenario.serving) {
    if (scenario.refusal) {
      scenario.refusal.reset();
      store_.clear_refusal(name);
      log::info("pointer_restored", {{"scenario", name}, {"version", *version}});
    }
  } else if (!scenario.refusal || !still_refused(*scenario.refusal, *version)) {
    if (serve(name, *version, either.get_token(), true) == Loaded::kStopped) return;
  }
  if (scenario.serving.empty()) return;
  if (next && next->version == *version) next.reset();  // it has come, whatever became of it
  load_ahead(name, scenario, next, either.get_token());
  follow_canary(name, scenario, pointers.canary, either.get_token());
  if (rules_.shadows) follow_shadow(name, scenario, pointers.shadow, either.get_token());
}

RegistryWatcher::Scenario& RegistryWatcher::known(const std::string& name) {
  auto [at, added] = scenarios_.try_emplace(name);
  if (added) observer_.found(name);
  return at->second;
}

void RegistryWatcher::pointer_missing(const std::string& name, Scenario& scenario) {
  std::string message = "scenarios/" + name + "/current: no such file; expected a snapshot's version";
  if (scenario.refusal && scenario.refusal->message == message) return;
  log::warn("pointer_missing", {{"scenario", name}, {"serving", scenario.serving}, {"reason", message}});
  // In place of an older refusal: what that one was about is not asked for any more.
  store_.refuse(name, "", message);
  scenario.refusal = std::make_unique<Refusal>(
      Refusal{.version = "", .message = message, .reason = Reason::kPointer, .files = {}, .when = Clock::now()});
}

bool RegistryWatcher::still_refused(const Refusal& refusal, const std::string& version) const {
  if (refusal.version != version) return false;
  const bool passing = refusal.reason == Reason::kIo || refusal.reason == Reason::kMemory;
  if (passing && Clock::now() - refusal.when >= rules_.retry) return false;
  return !refusal.files.changed();
}

RegistryWatcher::Loaded RegistryWatcher::serve(const std::string& name, const std::string& version,
                                               const std::stop_token& stop, bool remember, std::string* refusal) {
  Clock::time_point start = Clock::now();
  store_.loading(name, true);
  bool fresh = false;
  std::unique_ptr<Refusal> refused;
  const bool ahead = is_ahead(scenarios_[name], version);
  switch (load(name, version, registry_.snapshot_dir(name, version), stop, fresh, refused)) {
    case Loaded::kStopped:
      store_.loading(name, false);
      return Loaded::kStopped;
    case Loaded::kRefused:
      if (refusal) *refusal = refused->message;
      refuse(name, std::move(*refused), remember);
      return Loaded::kRefused;
    case Loaded::kYes:
      break;
  }
  fresh |= ahead;
  Scenario& scenario = scenarios_[name];
  if (scenario.ahead.version == version) scenario.ahead = {};
  std::string previous = std::exchange(scenario.serving, version);
  if (scenario.last != version) scenario.previous = std::exchange(scenario.last, version);
  scenario.rolled_back = false;
  scenario.unloaded = false;
  scenario.refusal.reset();
  show(name, scenario);
  const std::shared_ptr<const LoadedSnapshot>& snapshot = scenario.resident.at(version).snapshot;
  store_.publish(snapshot, fresh);
  observer_.serving(*snapshot, fresh);
  log::info(fresh ? "snapshot_loaded" : "snapshot_swapped", {{"scenario", name},
                                                             {"version", version},
                                                             {"previous", previous},
                                                             {"weight_bytes", snapshot->weight_bytes()},
                                                             {"ahead", ahead},
                                                             {"seconds", seconds_since(start)}});
  settle(name, scenario);
  return Loaded::kYes;
}

void RegistryWatcher::refuse(const std::string& name, Refusal refusal, bool remember) {
  Scenario& scenario = scenarios_[name];
  store_.refuse(name, refusal.version, refusal.message);
  observer_.refused(name, refusal.reason, !scenario.serving.empty());
  log::error("snapshot_refused", {{"scenario", name},
                                  {"version", refusal.version},
                                  {"cause", reason_name(refusal.reason)},
                                  {"reason", refusal.message},
                                  {"serving", scenario.serving}});
  if (remember) scenario.refusal = std::make_unique<Refusal>(std::move(refusal));
}

}  // namespace smt::server
