// Says at once whose `current` was replaced in the registry, where the kernel can tell: by a process of this machine,
// on a local file system (inotify). It says nothing of other machines' changes on a network file system, nor when the
// system has no watch left, so whoever has to know looks as well.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <set>
#include <string>

namespace smt::server {

// For one thread.
class RegistryChanges {
 public:
  RegistryChanges();
  ~RegistryChanges();
  RegistryChanges(const RegistryChanges&) = delete;
  RegistryChanges& operator=(const RegistryChanges&) = delete;

  // From now on tells of the scenario, whose folder this is. Costs next to nothing when it does already. A folder that
  // is removed or renamed is forgotten.
  void watch(const std::string& scenario, const std::filesystem::path& folder);
  // The scenarios in whose folders a file was renamed into place since the last call.
  std::set<std::string> take();
  // Returns when take() may have something to tell, when `other` is readable, or when it is `until`.
  void wait(int other, std::chrono::steady_clock::time_point until) const;

 private:
  const int inotify_;                     // -1: none to be had
  std::map<int, std::string> scenarios_;  // by watch
  std::set<std::string> watched_;         // the same names
};

}  // namespace smt::server
