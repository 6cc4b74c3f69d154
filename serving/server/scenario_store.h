// Which snapshot serves which scenario: the point where a swap happens.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "label_routes.h"
#include "shadow_route.h"
#include "snapshot.h"

namespace smt::server {

// kLoading -> kServing | kUnavailable; kUnavailable -> kLoading; kServing stays: a refused or vanished version never
// takes away what is being served. Any -> kUnloaded -> kServing | kUnavailable by command alone.
enum class ScenarioState { kLoading, kServing, kUnavailable, kUnloaded };

// What commands made of a scenario.
struct ScenarioControl {
  bool pinned = false;           // what is served stays, whatever the registry names
  bool unloaded = false;         // nothing is served, whatever the registry names
  std::string rollback_version;  // what a rollback would go back to; empty: nothing
};

struct ScenarioStatus {
  std::string scenario;
  ScenarioState state = ScenarioState::kLoading;
  std::string version;          // being served; empty: none
  std::string refused_version;  // empty: none was refused, or the refused pointer named no version
  std::string refused_reason;   // empty: the current version is being served
  std::string abi_hash;
  int64_t weight_bytes = 0;
  int64_t loads = 0;
  ScenarioControl control;
  std::shared_ptr<const ShadowRoute> shadow;  // null: none
};

// Thread-safe. Readers (serving threads) hold the lock for a map look-up and a reference count; writers (the watcher
// thread) for a pointer exchange. No snapshot is loaded or freed under the lock.
class ScenarioStore {
 public:
  // The snapshot being served; null if the scenario is unknown or none of its versions is loaded. The caller keeps the
  // reference for as long as it uses the snapshot: one reference for one request, so its scores are of one version.
  std::shared_ptr<const LoadedSnapshot> find(std::string_view scenario) const;

  // As find(), with the versions that labels name besides (null: none).
  struct Served {
    std::shared_ptr<const LoadedSnapshot> stable;
    std::shared_ptr<const LabelRoutes> labels;
    std::shared_ptr<const ShadowRoute> shadow;
  };
  Served served(std::string_view scenario) const;

  // nullopt: the registry names no such scenario.
  std::optional<ScenarioStatus> status(std::string_view scenario) const;
  std::vector<ScenarioStatus> list() const;  // sorted by name
  std::vector<std::string> names() const;    // sorted

  // The registry names the scenario, and a version of it is about to be loaded, or loading it was given up.
  void loading(const std::string& scenario, bool loading);
  // Flips the scenario to `snapshot`, from this moment on for every new request. Returns the one it replaces (null at
  // first), so that the caller decides where the last reference is dropped. `fresh`: it was loaded for that.
  std::shared_ptr<const LoadedSnapshot> publish(std::shared_ptr<const LoadedSnapshot> snapshot, bool fresh = true);
  // A version was refused; what is being served goes on being served. `version` is empty for an unreadable pointer.
  // Every reason passes here on its way into responses: it is made valid UTF-8 whatever it is built from.
  void refuse(const std::string& scenario, const std::string& version, const std::string& reason);
  // The pointer names the version being served again.
  void clear_refusal(const std::string& scenario);
  // From this moment on for every new request. Null: no label names a version besides the stable one.
  void set_labels(const std::string& scenario, std::shared_ptr<const LabelRoutes> labels);
  // The same for the version that scores again what the stable one answers. Null: none.
  void set_shadow(const std::string& scenario, std::shared_ptr<const ShadowRoute> shadow);
  // For status() alone; find() does not look at it.
  void set_control(const std::string& scenario, ScenarioControl control);
  // Takes the scenario's snapshot out of service and returns it (null: there was none), as publish() does.
  std::shared_ptr<const LoadedSnapshot> withdraw(const std::string& scenario);
  // Forgets everything; for the end of the process.
  void clear();

 private:
  struct Entry {
    std::shared_ptr<const LoadedSnapshot> snapshot;
    std::shared_ptr<const LabelRoutes> labels;
    std::shared_ptr<const ShadowRoute> shadow;
    bool loading = false;
    std::string refused_version;
    std::string refused_reason;
    int64_t loads = 0;
    ScenarioControl control;
  };
  static ScenarioStatus describe(const std::string& scenario, const Entry& entry);

  mutable std::mutex mutex_;  // guards entries_
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace smt::server
