// Keeps the scenario store equal to the registry: polls every scenario's `current` and loads what changed.
//
// Polling, not inotify: registries live on network file systems too, and reading a 40-byte file per scenario is cheap.
#pragma once

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "file_io.h"
#include "refusal.h"
#include "registry.h"
#include "scenario_store.h"

namespace smt::server {

// As SnapshotLoader::load.
using LoadFunction = std::function<std::shared_ptr<const LoadedSnapshot>(
    const std::string& scenario, const std::string& version, TouchedFiles& touched, std::stop_token stop)>;

// What the watcher tells others. Called on the thread that scans; must not throw.
class WatchObserver {
 public:
  virtual ~WatchObserver() = default;
  // The registry names a scenario for the first time.
  virtual void found(const std::string& scenario) = 0;
  // `snapshot` is being served from now on.
  virtual void loaded(const LoadedSnapshot& snapshot) = 0;
  // `serving`: an earlier version of the scenario goes on being served.
  virtual void refused(const std::string& scenario, Reason reason, bool serving) = 0;
  // A scan ended.
  virtual void scanned() = 0;
};

// Rules:
// - A scenario is loaded when its `current` names another version than the one being served.
// - A refused version is remembered with its reason, and tried again when `current` names another version or when one
//   of the files that decided the outcome changes, appears or disappears; after a failure of the file system (kIo)
//   also after a while (kRetry).
// - A scenario whose `current` (or whole folder, or the registry) disappears goes on being served; its status says
//   so, and a warning is logged once: withdrawing a scenario is an act of publishing, not the loss of a file.
class RegistryWatcher {
 public:
  static constexpr std::chrono::seconds kRetry{5};

  // All references must outlive the watcher. `retry`: see the rules above.
  RegistryWatcher(Registry registry, LoadFunction load, ScenarioStore& store, WatchObserver& observer,
                  std::chrono::milliseconds retry = kRetry);
  ~RegistryWatcher();  // stops

  // One pass over the registry, on the calling thread. Not to be called while the thread runs.
  void scan(std::stop_token stop = {});

  // Scans every `interval` on a thread of its own, at lower priority than the serving threads. `on_thread_start` runs
  // first on that thread.
  void start(std::chrono::milliseconds interval, std::function<void()> on_thread_start = {});
  // Interrupts a load in progress, without waiting.
  void request_stop() { thread_.request_stop(); }
  // As request_stop(), and returns when the thread has ended. Idempotent.
  void stop();

 private:
  struct Refusal {
    std::string version;  // empty: the pointer itself was refused, or is missing
    std::string message;
    Reason reason;
    TouchedFiles files;
    std::chrono::steady_clock::time_point when;
  };
  struct Scenario {
    std::string serving;  // version; empty: none
    std::unique_ptr<Refusal> refusal;
  };

  void visit(const std::string& name, std::stop_token stop);
  void pointer_missing(const std::string& name, Scenario& scenario);
  void try_load(const std::string& name, const std::string& version, std::stop_token stop);
  void refuse(const std::string& name, Refusal refusal);
  bool still_refused(const Refusal& refusal, const std::string& version) const;
  void run(std::stop_token stop, std::chrono::milliseconds interval);

  const Registry registry_;
  const LoadFunction load_;
  ScenarioStore& store_;
  WatchObserver& observer_;
  const std::chrono::milliseconds retry_;
  // Only the scanning thread touches these.
  std::map<std::string, Scenario> scenarios_;
  std::set<std::string> ignored_;  // folder names already warned about
  std::string listing_error_;      // last one logged

  std::mutex mutex_;  // guards nothing but the wait between scans
  std::condition_variable_any wake_;
  std::jthread thread_;
};

}  // namespace smt::server
