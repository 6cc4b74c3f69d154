// Keeps the scenario store equal to the registry: polls every scenario's `current` and labels, and loads what changed.
//
// Polling, since registries live on network file systems too, and a look at a scenario at rest is three stat(2) calls
// (pointers.h). Where the kernel tells of a new `current` (registry_changes.h), that is looked at without delay.
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

#include "canary_monitor.h"
#include "file_io.h"
#include "lifecycle.h"
#include "pointers.h"
#include "reaper.h"
#include "refusal.h"
#include "registry.h"
#include "registry_changes.h"
#include "registry_commands.h"
#include "scenario_store.h"
#include "snapshot_loader.h"

namespace smt::server {

// As SnapshotLoader::load.
using LoadFunction = std::function<std::shared_ptr<const LoadedSnapshot>(
    const std::string& scenario, const std::string& version, const std::filesystem::path& folder, TouchedFiles& touched,
    std::stop_token stop, const AdmitFunction& admit)>;

// What the watcher tells others. Called on the thread that scans; must not throw.
class WatchObserver {
 public:
  virtual ~WatchObserver() = default;
  // The registry names a scenario for the first time.
  virtual void found(const std::string& scenario) = 0;
  // `snapshot` is the scenario's stable version from now on. `fresh`: it was loaded for that, not kept from before.
  virtual void serving(const LoadedSnapshot& snapshot, bool fresh) = 0;
  // `serving`: an earlier version of the scenario goes on being served.
  virtual void refused(const std::string& scenario, Reason reason, bool serving) = 0;
  // An alarm took the scenario's canary out of service.
  virtual void rolled_back(const std::string& scenario, AlarmCause cause) = 0;
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
// - The version that was served before stays resident (kWarm), so that to go back needs no load. Those that have been
//   warm for longest are given up when a load needs their memory; what then does not fit is refused (kMemory).
// - A version that is being published (`next`) is loaded meanwhile where there is memory that nobody else uses, and let
//   go of when it does not become `current`: the publication ended without it, or takes longer than kNextPatience.
//   Whatever goes wrong with it is looked at when `current` names it.
// - A canary is loaded and answers its share beside the stable version, until an alarm (CanaryMonitor) takes it out of
//   service: then it stays out until the label names another version or is taken away, or kLoad.
// - A shadow is loaded where there is memory that nobody else uses, and gives it back when another version needs it:
//   before those that are warm. It is tried again as what was refused for kMemory is.
// - While a scenario is pinned or unloaded it has neither canary nor shadow.
// - Commands are done between two scenarios of a scan; to roll back interrupts a load that the registry asked for.
//   `current` is not looked at while a scenario is pinned or unloaded by one. What commands decided ends with the
//   process.
class RegistryWatcher {
 public:
  struct Rules {
    std::chrono::milliseconds retry = std::chrono::seconds(5);  // after kIo and kMemory
    bool keep_warm = true;
    int64_t memory_limit = 0;  // bytes of weights; 0: none
    CanaryRules canary{};
    bool shadows = true;  // whether they are loaded
  };
  // Where versions live, besides the watcher's own hold on them.
  struct Places {
    ScenarioStore& store;
    Lifecycle& lifecycle;
    Reaper& reaper;
  };

  // All references must outlive the watcher.
  RegistryWatcher(Registry registry, LoadFunction load, Places places, WatchObserver& observer, const Rules& rules);
  ~RegistryWatcher();  // stops, and lets go of all versions

  // One pass over the registry, on the calling thread. Not to be called while the thread runs.
  void scan(std::stop_token stop = {});

  // Scans every `interval` on a thread of its own, at lower priority than the serving threads, and between two scans
  // visits the scenarios whose `current` is known to have been replaced. `on_thread_start` runs first on that thread.
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
  // A version that is loaded: warm, or being served.
  struct Resident {
    std::shared_ptr<const LoadedSnapshot> snapshot;
    Lifecycle::Id id;
    std::chrono::steady_clock::time_point warm_since{};
  };
  // What a label names, and what became of it.
  struct Labelled {
    std::optional<Label> asked;
    std::unique_ptr<Refusal> refusal;  // of what it names; with an empty version of the file itself
  };
  // The version that `next` named last.
  struct Ahead {
    std::string version;  // empty: none
    bool held = false;    // whether it is kept resident; otherwise it was refused, or waited for too long
    std::chrono::steady_clock::time_point since{};
  };
  struct Canary : Labelled {
    std::string withdrawn;                   // the version of it that an alarm took out of service
    std::shared_ptr<CanaryMonitor> monitor;  // of the version that answers now
    std::string compared_with;               // the stable version that `monitor` compares it with
  };
  struct Scenario {
    std::string serving;  // version; empty: none
    std::string last;     // as `serving`, or what that was before an unload
    std::string
        previous;  // what a rollback goes back to; empty: nothing was served before, or it is what is served now
    bool rolled_back = false;  // `serving` is the result of a rollback
    bool pinned = false;       // then `serving` is what was asked for
    bool unloaded = false;
    std::unique_ptr<Refusal> refusal;          // of what the registry names
    std::map<std::string, Resident> resident;  // by version
    Canary canary;
    Labelled shadow;
    Ahead ahead;
    std::shared_ptr<const ShadowRoute> shadow_route;  // what the store has; null: none
  };
  enum class Loaded { kYes, kRefused, kStopped };
  enum class Room { kMake, kFree };  // for a load: at the expense of who is warm or a shadow, or what is free alone

  // `told`: something in its folder has been replaced.
  void visit(const std::string& name, const std::stop_token& stop, bool told = false);
  void pointer_missing(const std::string& name, Scenario& scenario);
  Scenario& known(const std::string& name);  // reports what is new to the observer
  // Serves `version` as the stable one, loaded first if it is not resident. `remember`: not to try again while nothing
  // changes. False for a version that the registry does not ask for. `refusal` receives the reason of kRefused.
  Loaded serve(const std::string& name, const std::string& version, const std::stop_token& stop, bool remember,
               std::string* refusal = nullptr);
  void refuse(const std::string& name, Refusal refusal, bool remember = true);
  bool still_refused(const Refusal& refusal, const std::string& version) const;
  void run(std::stop_token stop, std::chrono::milliseconds interval);

  // Residence: see registry_watcher_residence.cc.
  // Makes `version`, whose files are in `folder`, resident. `fresh`: it was not before. Fills `refusal` for kRefused.
  Loaded load(const std::string& name, const std::string& version, const std::filesystem::path& folder,
              const std::stop_token& stop, bool& fresh, std::unique_ptr<Refusal>& refusal, Room room = Room::kMake);
  // Loads what is being published, lets go of what does not come. `next`: what the file says now.
  void load_ahead(const std::string& name, Scenario& scenario, const std::optional<NextVersion>& next,
                  const std::stop_token& stop);
  // Whether `version` is resident because it is being published.
  static bool is_ahead(const Scenario& scenario, const std::string& version);
  // Gives every resident version the state that its role asks for, and lets go of those without one.
  void settle(const std::string& name, Scenario& scenario);
  // Lets go of a resident version; `cause`: why it was taken out of service, if something was wrong with it.
  void release(Scenario& scenario, std::map<std::string, Resident>::iterator resident, const std::string& cause = {});
  bool make_room(int64_t bytes, Room room);
  bool give_up_shadow();  // any; false: there is none
  bool give_up_warm();    // the one that has been for longest; false: there is none

  // Labels: see registry_watcher_labels.cc.
  // Takes over what the file of a label says. True when it names another version than before, or none.
  bool read_label(const std::string& name, Scenario& scenario, std::string_view label, const Pointer<Label>& pointer,
                  Labelled& labelled);
  // Makes the version that it names resident. True when it has become so.
  bool load_labelled(const std::string& name, Scenario& scenario, std::string_view label, Labelled& labelled,
                     const std::stop_token& stop, Room room);
  void refuse_labelled(const std::string& name, const Scenario& scenario, std::string_view label, Labelled& labelled,
                       Refusal refusal);
  // The version that it names, if that is resident and not the stable one; null otherwise.
  static const Resident* beside_stable(const Scenario& scenario, const Labelled& labelled);
  void follow_canary(const std::string& name, Scenario& scenario, const Pointer<Label>& pointer,
                     const std::stop_token& stop);
  void follow_shadow(const std::string& name, Scenario& scenario, const Pointer<Label>& pointer,
                     const std::stop_token& stop);
  void withdraw_canary(const std::string& name, Scenario& scenario, const Alarm& alarm);
  // The version that answers for the canary; null: none.
  static const Resident* active_canary(const Scenario& scenario);
  void set_routes(const std::string& name, Scenario& scenario);
  void set_shadow(const std::string& name, Scenario& scenario);

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
  Lifecycle& lifecycle_;
  Reaper& reaper_;
  WatchObserver& observer_;
  const Rules rules_;
  // Only the scanning thread touches these.
  PointerReader pointers_;
  RegistryChanges changes_;
  std::map<std::string, Scenario> scenarios_;
  std::set<std::string> ignored_;  // folder names already warned about
  std::string listing_error_;      // last one logged

  RegistryCommands commands_;
  std::jthread thread_;
};

}  // namespace smt::server
