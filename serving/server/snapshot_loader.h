// From a version in the registry to a LoadedSnapshot that can be served.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "binary_cache.h"
#include "file_io.h"
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

  // Verifies everything (manifest checksum and fields, file size and sha256, tensors, ABI hash against a template
  // binary, sizes, FeatureSpec, finite weights), packs the dense weights for the kernels, and scores one trial row, so
  // that what is returned can be served and its first request pays no first-run cost. Throws Refused, and nothing else,
  // for whatever is wrong. `touched` receives the files whose change could change the outcome, also when it throws.
  // Called by the watcher thread only, never by a serving thread.
  std::shared_ptr<const LoadedSnapshot> load(const std::string& scenario, const std::string& version,
                                             TouchedFiles& touched, std::stop_token stop,
                                             const AdmitFunction& admit) const;

 private:
  const Registry registry_;
  BinaryCache& binaries_;
};

}  // namespace smt::server
