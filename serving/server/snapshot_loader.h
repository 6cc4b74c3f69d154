// From a version in the registry to a LoadedSnapshot that can be served.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <utility>

#include "binary_cache.h"
#include "file_io.h"
#include "pace.h"
#include "registry.h"
#include "snapshot.h"

namespace smt::server {

// Called once in each load, after the manifest is verified and before memory for weights is taken: how many bytes will
// stay resident, and how many more the load needs for its own time. Throws Refused(kMemory) where there is no room.
using AdmitFunction = std::function<void(int64_t resident_bytes, int64_t passing_bytes)>;

class SnapshotLoader {
 public:
  // Keeps a reference to `binaries`.
  SnapshotLoader(Registry registry, BinaryCache& binaries) : registry_(std::move(registry)), binaries_(binaries) {}

  // Verifies everything (manifests' checksums and fields, file sizes and digests, tensors, ABI hash against a template
  // binary, sizes, FeatureSpec, finite weights), packs the dense weights for the kernels, and scores one trial row, so
  // that what is returned can be served and its first request pays no first-run cost. Of a delta, only what changed is
  // read when a version that it is built on is still alive; else everything down to the whole snapshot. Throws Refused,
  // and nothing else, for whatever is wrong. `folder`: where its files are. `touched` receives the files whose change
  // could change the outcome, also when it throws. Called by one thread at a time, the watcher's, never by a serving
  // thread.
  std::shared_ptr<const LoadedSnapshot> load(const std::string& scenario, const std::string& version,
                                             const std::filesystem::path& folder, TouchedFiles& touched,
                                             std::stop_token stop, const AdmitFunction& admit);

  // From the next load on weights are read as Pace::keep says. Not while a load is under way.
  void keep_pace(int64_t bytes_per_second, Pace::GiveWay give_way) {
    pace_.keep(bytes_per_second, std::move(give_way));
  }

 private:
  std::shared_ptr<const LoadedSnapshot> load_verified(const std::string& scenario, const std::string& version,
                                                      const std::filesystem::path& folder, TouchedFiles& touched,
                                                      std::stop_token stop, const AdmitFunction& admit);
  // What this loader has loaded of this version for this binary, if anybody holds it still; null otherwise.
  std::shared_ptr<const LoadedSnapshot> resident(const std::string& scenario, const std::string& version,
                                                 const TemplateBinary* binary) const;

  const Registry registry_;
  BinaryCache& binaries_;
  Pace pace_;
  std::map<std::pair<std::string, std::string>, std::weak_ptr<const LoadedSnapshot>> loaded_;  // scenario, version
};

}  // namespace smt::server
