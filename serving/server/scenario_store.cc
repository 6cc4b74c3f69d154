#include "scenario_store.h"

#include <utility>

#include "text.h"

namespace smt::server {

std::shared_ptr<const LoadedSnapshot> ScenarioStore::find(std::string_view scenario) const {
  std::lock_guard lock(mutex_);
  auto it = entries_.find(scenario);
  return it == entries_.end() ? nullptr : it->second.snapshot;
}

ScenarioStore::Served ScenarioStore::served(std::string_view scenario) const {
  std::lock_guard lock(mutex_);
  auto it = entries_.find(scenario);
  return it == entries_.end() ? Served{} : Served{it->second.snapshot, it->second.labels, it->second.shadow};
}

void ScenarioStore::set_labels(const std::string& scenario, std::shared_ptr<const LabelRoutes> labels) {
  std::shared_ptr<const LabelRoutes> replaced;  // dropped outside the lock
  std::lock_guard lock(mutex_);
  replaced = std::exchange(entries_[scenario].labels, std::move(labels));
}

void ScenarioStore::set_shadow(const std::string& scenario, std::shared_ptr<const ShadowRoute> shadow) {
  std::shared_ptr<const ShadowRoute> replaced;  // dropped outside the lock
  std::lock_guard lock(mutex_);
  replaced = std::exchange(entries_[scenario].shadow, std::move(shadow));
}

ScenarioStatus ScenarioStore::describe(const std::string& scenario, const Entry& entry) {
  ScenarioStatus status{.scenario = scenario,
                        .state = entry.snapshot           ? ScenarioState::kServing
                                 : entry.control.unloaded ? ScenarioState::kUnloaded
                                 : entry.loading          ? ScenarioState::kLoading
                                                          : ScenarioState::kUnavailable,
                        .version = {},
                        .refused_version = entry.refused_version,
                        .refused_reason = entry.refused_reason,
                        .abi_hash = {},
                        .loads = entry.loads,
                        .control = entry.control,
                        .shadow = entry.shadow};
  if (entry.snapshot) {
    status.version = entry.snapshot->version;
    status.abi_hash = entry.snapshot->abi_hash;
    status.weight_bytes = entry.snapshot->weight_bytes();
  }
  return status;
}

std::optional<ScenarioStatus> ScenarioStore::status(std::string_view scenario) const {
  std::lock_guard lock(mutex_);
  auto it = entries_.find(scenario);
  if (it == entries_.end()) return std::nullopt;
  return describe(it->first, it->second);
}

std::vector<ScenarioStatus> ScenarioStore::list() const {
  std::lock_guard lock(mutex_);
  std::vector<ScenarioStatus> out;
  out.reserve(entries_.size());
  for (const auto& [scenario, entry] : entries_) out.push_back(describe(scenario, entry));
  return out;
}

std::vector<std::string> ScenarioStore::names() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> out;
  out.reserve(entries_.size());
  for (const auto& [scenario, entry] : entries_) out.push_back(scenario);
  return out;
}

void ScenarioStore::loading(const std::string& scenario, bool loading) {
  std::lock_guard lock(mutex_);
  entries_[scenario].loading = loading;
}

void ScenarioStore::set_control(const std::string& scenario, ScenarioControl control) {
  std::lock_guard lock(mutex_);
  entries_[scenario].control = std::move(control);
}

std::shared_ptr<const LoadedSnapshot> ScenarioStore::withdraw(const std::string& scenario) {
  std::lock_guard lock(mutex_);
  return std::exchange(entries_[scenario].snapshot, nullptr);
}

std::shared_ptr<const LoadedSnapshot> ScenarioStore::publish(std::shared_ptr<const LoadedSnapshot> snapshot,
                                                             bool fresh) {
  std::lock_guard lock(mutex_);
  Entry& entry = entries_[snapshot->scenario];
  entry.loading = false;
  entry.refused_version.clear();
  entry.refused_reason.clear();
  entry.loads += fresh ? 1 : 0;
  return std::exchange(entry.snapshot, std::move(snapshot));
}

void ScenarioStore::refuse(const std::string& scenario, const std::string& version, const std::string& reason) {
  std::lock_guard lock(mutex_);
  Entry& entry = entries_[scenario];
  entry.loading = false;
  entry.refused_version = transform::printable(version);
  entry.refused_reason = transform::printable(reason);
}

void ScenarioStore::clear_refusal(const std::string& scenario) {
  std::lock_guard lock(mutex_);
  Entry& entry = entries_[scenario];
  entry.loading = false;
  entry.refused_version.clear();
  entry.refused_reason.clear();
}

void ScenarioStore::clear() {
  std::map<std::string, Entry, std::less<>> freed;  // outside the lock
  std::lock_guard lock(mutex_);
  freed.swap(entries_);
}

}  // namespace smt::server
