#include "registry_watcher.h"

#include <sys/resource.h>
#include <unistd.h>

#include <utility>

#include "log.h"

namespace smt::server {
namespace {

using Clock = std::chrono::steady_clock;

// Linux applies a priority to one thread when given its thread id: loading must not compete with requests.
constexpr int kLoaderNiceness = 10;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

RegistryWatcher::RegistryWatcher(Registry registry, LoadFunction load, ScenarioStore& store, WatchObserver& observer,
                                 std::chrono::milliseconds retry)
    : registry_(std::move(registry)), load_(std::move(load)), store_(store), observer_(observer), retry_(retry) {}

RegistryWatcher::~RegistryWatcher() { stop(); }

void RegistryWatcher::start(std::chrono::milliseconds interval, std::function<void()> on_thread_start) {
  thread_ = std::jthread([this, interval, start = std::move(on_thread_start)](std::stop_token stop) {
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kLoaderNiceness);
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
    commands_.wait(stop, interval);
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

void RegistryWatcher::visit(const std::string& name, std::stop_token stop) {
  std::optional<std::string> version;
  auto at = scenarios_.find(name);
  if (at != scenarios_.end() && (at->second.pinned || at->second.unloaded)) return;
  try {
    version = registry_.current(name);
  } catch (const Refused& error) {
    if (at != scenarios_.end() && at->second.refusal && at->second.refusal->version.empty() &&
        at->second.refusal->message == error.what()) {
      return;
    }
    known(name);
    refuse(name, {.version = "", .message = error.what(), .reason = error.reason(), .files = {}, .when = Clock::now()});
    return;
  }
  if (!version) {
    if (at != scenarios_.end()) pointer_missing(name, at->second);  // otherwise not published yet
    return;
  }
  Scenario& scenario = known(name);
  if (*version == scenario.serving) {
    if (scenario.refusal) {
      scenario.refusal.reset();
      store_.clear_refusal(name);
      log::info("pointer_restored", {{"scenario", name}, {"version", *version}});
    }
    return;
  }
  if (scenario.refusal && still_refused(*scenario.refusal, *version)) return;
  try_load(name, *version, std::move(stop), true);
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
  if (refusal.reason == Reason::kIo && Clock::now() - refusal.when >= retry_) return false;
  return !refusal.files.changed();
}

RegistryWatcher::Loaded RegistryWatcher::try_load(const std::string& name, const std::string& version,
                                                  std::stop_token stop, bool remember, std::string* refusal) {
  store_.loading(name, true);
  TouchedFiles touched;
  Clock::time_point start = Clock::now();
  try {
    auto snapshot = load_(name, version, touched, stop);
    if (stop.stop_requested()) {
      store_.loading(name, false);
      return Loaded::kStopped;
    }
    Scenario& scenario = scenarios_[name];
    std::string previous = std::exchange(scenario.serving, version);
    if (scenario.last != version) scenario.previous = std::exchange(scenario.last, version);
    scenario.rolled_back = false;
    scenario.unloaded = false;
    scenario.refusal.reset();
    show(name, scenario);
    auto replaced = store_.publish(snapshot);
    observer_.loaded(*snapshot);
    log::info("snapshot_loaded", {{"scenario", name},
                                  {"version", version},
                                  {"previous", previous},
                                  {"weight_bytes", snapshot->weight_bytes()},
                                  {"seconds", seconds_since(start)}});
    return Loaded::kYes;
  } catch (const Refused& error) {
    if (stop.stop_requested()) {  // not the snapshot's fault
      store_.loading(name, false);
      return Loaded::kStopped;
    }
    if (refusal) *refusal = error.what();
    refuse(name,
           {.version = version,
            .message = error.what(),
            .reason = error.reason(),
            .files = std::move(touched),
            .when = Clock::now()},
           remember);
    return Loaded::kRefused;
  }
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
