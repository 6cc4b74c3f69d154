// The manifests that a version is made of: its own, and those of the versions that it is built on.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "file_io.h"
#include "manifest.h"
#include "registry.h"
#include "transform.h"

namespace smt::server {

// One version of a chain.
struct ChainLink {
  SnapshotManifest manifest;
  transform::FeatureSpec features;

  // Of the table, once this version is applied: the smallest table has two rows, also of a scenario without
  // categorical features.
  int64_t table_rows() const;
};

// The version itself first, the whole snapshot that it goes back to last; verified: checksums of the manifests, and
// that each fits the one that it is built on (template, ABI, dimension, features). `touched` receives the files of all,
// weights included, whose change could change the outcome of loading it. Throws Refused.
std::vector<ChainLink> read_chain(const Registry& registry, const std::string& scenario, const std::string& version,
                                  TouchedFiles& touched);

}  // namespace smt::server
