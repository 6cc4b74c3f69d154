// The ledger of versions: which there are of each scenario, in which state, since when, and what memory they hold.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "held_bytes.h"
#include "version_state.h"

namespace smt::server {

struct VersionStatus {
  std::string version;
  VersionState state = VersionState::kDiscovered;
  std::chrono::system_clock::time_point since{};  // of the state
  int64_t bytes = 0;   // of weights, what is being loaded and what it shares with others included; 0 once it is freed
  std::string label;   // stable, canary or shadow while it is served; else empty
  std::string reason;  // of kRefused, and of kDraining and kUnloaded where there is one
};

// Thread-safe: versions are loaded by one thread, freed by another, and looked at by those that serve.
class Lifecycle {
 public:
  // One load of a version. Loaded again while an older copy of it drains, a version has two.
  using Id = uint64_t;

  struct Step {
    const std::string& scenario;
    const VersionStatus& version;  // after the step
    VersionState from;             // kDiscovered also for the first step, into kDiscovered
  };
  // Called after each step, by the thread that made it, with the ledger locked: it must not call back.
  using Observer = std::function<void(const Step&)>;

  explicit Lifecycle(Observer observer = {}) : observer_(std::move(observer)) {}

  // A new version in kDiscovered. Forgets what ended of the same name, and all but the last kEnded of the scenario.
  Id discover(const std::string& scenario, const std::string& version);
  // Throws std::logic_error for a step that may_become() does not allow, and for an unknown id: a fault of ours.
  void move(Id id, VersionState to, const std::string& reason = {});
  // Ends draining: kRefused when drain() was given a cause, else kUnloaded.
  void drain(Id id, const std::string& cause = {});
  void freed(Id id);
  void set_bytes(Id id, HeldBytes bytes);
  void set_label(Id id, std::string_view label);

  VersionState state(Id id) const;
  // Of the scenario's versions, oldest first.
  std::vector<VersionStatus> of(std::string_view scenario) const;
  std::map<std::string, std::vector<VersionStatus>> all() const;
  // Bytes of weights of all versions that hold any; what several of them share is counted once.
  int64_t resident_bytes() const;

  static constexpr size_t kEnded = 3;

 private:
  struct Entry {
    std::string scenario;
    VersionStatus status;
    HeldBytes bytes{};
    bool condemned = false;  // ends as kRefused
  };
  static bool ended(const Entry& entry);
  Entry& at(Id id);  // requires mutex_
  void step(Entry& entry, VersionState to, const std::string& reason);

  const Observer observer_;
  mutable std::mutex mutex_;  // guards all below
  std::map<Id, Entry> entries_;
  Id next_ = 1;
};

}  // namespace smt::server
