// The manifests that a version is made of: its own, and those of the versions that it is built on.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "file_io.h"
#include "manifest.h"
#include "registry.h"
#include "transform.h"

namespace smt::server {

// One version of a chain.
struct ChainLink {
  std::filesystem::path folder;  // where its files are
  SnapshotManifest manifest;
  transform::FeatureSpec features;

  // Of the table, once this version is applied: the smallest table has two rows, also of a scenario without
  // categorical features.
  int64_t table_rows() const;
};

// The version itself first, the whole snapshot that it goes back to last; verified: checksums of the manifests, and
// that each fits the one that it is built on (template, ABI, dimension, features). `folder`: where the files of the
// version itself are. `touched` receives the files of all,
// weights included, whose change could change the outcome of loading it. Throws Refused.
std::vector<ChainLink> read_chain(const Registry& registry, const std::string& scenario, const std::string& version,
                                  const std::filesystem::path& folder, TouchedFiles& touched);

}  // namespace smt::server
