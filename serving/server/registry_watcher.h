// Keeps the scenario store equal to the registry: polls every scenario's `current` and loads what changed.
//
// Polling, not inotify: registries live on network file systems too, and reading a 40-byte file per scenario is cheap.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "file_io.h"
#include "refusal.h"
#include "registry.h"
#include "registry_commands.h"
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
  // A command took the scenario out of service.
  virtual void unloaded(const std::string& scenario) = 0;
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
// - Commands are done between two scenarios of a scan. `current` is not looked at while a scenario is pinned or
// unloaded
//   by one. What commands decided ends with the process.
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
  // Interrupts a load in progress, without waiting; answers the commands that wait, and later ones.
  void request_stop() {
    thread_.request_stop();
    commands_.close();
  }
  // As request_stop(), and returns when the thread has ended. Idempotent.
  void stop();

  // Taken also while scan() runs, so before the server is ready.
  RegistryCommands& commands() { return commands_; }

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
    std::string last;     // as `serving`, or what that was before an unload
    std::string
        previous;  // what a rollback goes back to; empty: nothing was served before, or it is what is served now
    bool rolled_back = false;  // `serving` is the result of a rollback
    bool pinned = false;       // then `serving` is what was asked for
    bool unloaded = false;
    std::unique_ptr<Refusal> refusal;  // of what the registry names
  };
  enum class Loaded { kYes, kRefused, kStopped };

  void visit(const std::string& name, std::stop_token stop);
  void pointer_missing(const std::string& name, Scenario& scenario);
  Scenario& known(const std::string& name);  // reports what is new to the observer
  // `remember`: not to try again while nothing changes. False for a version that the registry does not ask for.
  // `refusal` receives the reason of kRefused.
  Loaded try_load(const std::string& name, const std::string& version, std::stop_token stop, bool remember,
                  std::string* refusal = nullptr);
  void refuse(const std::string& name, Refusal refusal, bool remember = true);
  bool still_refused(const Refusal& refusal, const std::string& version) const;
  void run(std::stop_token stop, std::chrono::milliseconds interval);

  // Commands: see registry_watcher_commands.cc.
  void run_commands(const std::stop_token& stop);
  CommandOutcome execute(const Command& command, const std::stop_token& stop);
  CommandOutcome follow(const std::string& name, const std::stop_token& stop);
  CommandOutcome load_version(const std::string& name, const std::string& version, const std::stop_token& stop);
  CommandOutcome unload(const std::string& name);
  CommandOutcome rollback(const std::string& name, const std::stop_token& stop);
  void show(const std::string& name, const Scenario& scenario);  // in the store

  const Registry registry_;
  const LoadFunction load_;
  ScenarioStore& store_;
  WatchObserver& observer_;
  const std::chrono::milliseconds retry_;
  // Only the scanning thread touches these.
  std::map<std::string, Scenario> scenarios_;
  std::set<std::string> ignored_;  // folder names already warned about
  std::string listing_error_;      // last one logged

  RegistryCommands commands_;
  std::jthread thread_;
};

}  // namespace smt::server
