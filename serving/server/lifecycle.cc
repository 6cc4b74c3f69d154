#include "lifecycle.h"

#include <set>
#include <stdexcept>
#include <utility>

#include "text.h"

namespace smt::server {

bool Lifecycle::ended(const Entry& entry) {
  return entry.status.state == VersionState::kUnloaded || entry.status.state == VersionState::kRefused;
}

Lifecycle::Entry& Lifecycle::at(Id id) {
  auto found = entries_.find(id);
  if (found == entries_.end()) throw std::logic_error("no version of number " + std::to_string(id));
  return found->second;
}

Lifecycle::Id Lifecycle::discover(const std::string& scenario, const std::string& version) {
  std::lock_guard lock(mutex_);
  size_t kept = 0;
  for (auto it = entries_.end(); it != entries_.begin();) {
    auto last = std::prev(it);
    const Entry& entry = last->second;
    const bool gone =
        entry.scenario == scenario && ended(entry) && (entry.status.version == version || ++kept > kEnded);
    it = gone ? entries_.erase(last) : last;
  }
  Id id = next_++;
  Entry& entry = entries_[id];
  entry.scenario = scenario;
  entry.status.version = version;
  entry.status.since = std::chrono::system_clock::now();
  if (observer_) observer_({scenario, entry.status, VersionState::kDiscovered});
  return id;
}

void Lifecycle::step(Entry& entry, VersionState to, const std::string& reason) {
  VersionState from = entry.status.state;
  if (!may_become(from, to)) {
    throw std::logic_error("version " + entry.status.version + " of scenario " + entry.scenario + " is " +
                           std::string(version_state_name(from)) + " and cannot become " +
                           std::string(version_state_name(to)));
  }
  entry.status.state = to;
  entry.status.since = std::chrono::system_clock::now();
  if (!reason.empty()) entry.status.reason = transform::printable(reason);
  if (to == VersionState::kServing || to == VersionState::kWarm) entry.status.reason.clear();
  if (to != VersionState::kServing) entry.status.label.clear();
  if (!holds_weights(to)) {
    entry.bytes = {};
    entry.status.bytes = 0;
  }
  if (observer_) observer_({entry.scenario, entry.status, from});
}

void Lifecycle::move(Id id, VersionState to, const std::string& reason) {
  std::lock_guard lock(mutex_);
  step(at(id), to, reason);
}

void Lifecycle::drain(Id id, const std::string& cause) {
  std::lock_guard lock(mutex_);
  Entry& entry = at(id);
  step(entry, VersionState::kDraining, cause);
  entry.condemned = !cause.empty();
}

void Lifecycle::freed(Id id) {
  std::lock_guard lock(mutex_);
  Entry& entry = at(id);
  step(entry, entry.condemned ? VersionState::kRefused : VersionState::kUnloaded, "");
}

void Lifecycle::set_bytes(Id id, HeldBytes bytes) {
  std::lock_guard lock(mutex_);
  Entry& entry = at(id);
  entry.status.bytes = bytes.total();
  entry.bytes = std::move(bytes);
}

void Lifecycle::set_label(Id id, std::string_view label) {
  std::lock_guard lock(mutex_);
  at(id).status.label = label;
}

VersionState Lifecycle::state(Id id) const {
  std::lock_guard lock(mutex_);
  return entries_.at(id).status.state;
}

std::vector<VersionStatus> Lifecycle::of(std::string_view scenario) const {
  std::lock_guard lock(mutex_);
  std::vector<VersionStatus> out;
  for (const auto& [id, entry] : entries_) {
    if (entry.scenario == scenario) out.push_back(entry.status);
  }
  return out;
}

std::map<std::string, std::vector<VersionStatus>> Lifecycle::all() const {
  std::lock_guard lock(mutex_);
  std::map<std::string, std::vector<VersionStatus>> out;
  for (const auto& [id, entry] : entries_) out[entry.scenario].push_back(entry.status);
  return out;
}

int64_t Lifecycle::resident_bytes() const {
  std::lock_guard lock(mutex_);
  int64_t bytes = 0;
  std::set<const void*> counted;
  for (const auto& [id, entry] : entries_) {
    bytes += entry.bytes.own;
    for (const SharedBytes& shared : entry.bytes.shared) {
      if (counted.insert(shared.owner).second) bytes += shared.bytes;
    }
  }
  return bytes;
}

}  // namespace smt::server
