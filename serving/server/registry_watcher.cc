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
  if (!thread_.joinable()) return;
  thread_.request_stop();
  thread_.join();
}

void RegistryWatcher::run(std::stop_token stop, std::chrono::milliseconds interval) {
  while (!stop.stop_requested()) {
    scan(stop);
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, stop, interval, [] { return false; });  // returns at once when stop is requested
  }
}

void RegistryWatcher::scan(std::stop_token stop) {
  std::vector<std::string> ignored;
  std::vector<std::string> names;
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
    if (stop.stop_requested()) return;
    visit(name, stop);
  }
  observer_.scanned();
}

void RegistryWatcher::visit(const std::string& name, std::stop_token stop) {
  std::optional<std::string> version;
  auto known = scenarios_.find(name);
  try {
    version = registry_.current(name);
  } catch (const Refused& error) {
    if (known != scenarios_.end() && known->second.refusal && known->second.refusal->version.empty() &&
        known->second.refusal->message == error.what()) {
      return;
    }
    if (known == scenarios_.end()) observer_.found(name);
    refuse(name, {.version = "", .message = error.what(), .reason = error.reason(), .files = {}, .when = Clock::now()});
    return;
  }
  if (!version) {
    if (known != scenarios_.end()) pointer_missing(name, known->second);  // otherwise not published yet
    return;
  }
  if (known == scenarios_.end()) {
    known = scenarios_.try_emplace(name).first;
    observer_.found(name);
  }
  Scenario& scenario = known->second;
  if (*version == scenario.serving) {
    if (scenario.refusal) {
      scenario.refusal.reset();
      store_.clear_refusal(name);
      log::info("pointer_restored", {{"scenario", name}, {"version", *version}});
    }
    return;
  }
  if (scenario.refusal && still_refused(*scenario.refusal, *version)) return;
  try_load(name, *version, std::move(stop));
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

void RegistryWatcher::try_load(const std::string& name, const std::string& version, std::stop_token stop) {
  store_.loading(name);
  TouchedFiles touched;
  Clock::time_point start = Clock::now();
  try {
    auto snapshot = load_(name, version, touched, stop);
    Scenario& scenario = scenarios_[name];
    std::string previous = std::exchange(scenario.serving, version);
    scenario.refusal.reset();
    auto replaced = store_.publish(snapshot);
    observer_.loaded(*snapshot);
    log::info("snapshot_loaded", {{"scenario", name},
                                  {"version", version},
                                  {"previous", previous},
                                  {"weight_bytes", snapshot->weight_bytes()},
                                  {"seconds", seconds_since(start)}});
  } catch (const Refused& error) {
    if (stop.stop_requested()) return;  // not the snapshot's fault
    refuse(name, {.version = version,
                  .message = error.what(),
                  .reason = error.reason(),
                  .files = std::move(touched),
                  .when = Clock::now()});
  }
}

void RegistryWatcher::refuse(const std::string& name, Refusal refusal) {
  Scenario& scenario = scenarios_[name];
  store_.refuse(name, refusal.version, refusal.message);
  observer_.refused(name, refusal.reason, !scenario.serving.empty());
  log::error("snapshot_refused", {{"scenario", name},
                                  {"version", refusal.version},
                                  {"cause", reason_name(refusal.reason)},
                                  {"reason", refusal.message},
                                  {"serving", scenario.serving}});
  scenario.refusal = std::make_unique<Refusal>(std::move(refusal));
}

}  // namespace smt::server
