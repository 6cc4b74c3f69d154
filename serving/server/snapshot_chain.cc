#include "snapshot_chain.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "json_fields.h"
#include "names.h"
#include "refusal.h"
#include "sha256.h"

namespace smt::server {
namespace {

namespace fs = std::filesystem;

SnapshotManifest read_manifest(const Registry& registry, const fs::path& dir, const std::string& scenario,
                               const std::string& version) {
  fs::path path = dir / "manifest.json";
  fs::path checksum_path = dir / "manifest.sha256";
  std::string shown = registry.shown(path);
  std::string text = read_text(path, shown, kMaxManifestBytes);
  std::string checksum = read_text(checksum_path, registry.shown(checksum_path), 1024);
  while (!checksum.empty() && (checksum.back() == '\n' || checksum.back() == '\r')) checksum.pop_back();
  if (std::string found = sha256_hex(text); found != checksum) {
    throw Refused(Reason::kChecksum, shown + ": sha256 is " + found + "; manifest.sha256 says " + quote(checksum));
  }
  SnapshotManifest manifest = parse_snapshot_manifest(text, shown);
  if (manifest.scenario != scenario || manifest.version != version) {
    throw Refused(Reason::kManifest, shown + ": is of " + manifest.scenario + "/" + manifest.version +
                                         "; its place says " + scenario + "/" + version);
  }
  return manifest;
}

ChainLink read_link(const Registry& registry, const std::string& scenario, const std::string& version,
                    const fs::path& dir, TouchedFiles& touched) {
  touched.add(dir / "manifest.json");
  touched.add(dir / "manifest.sha256");
  SnapshotManifest manifest = read_manifest(registry, dir, scenario, version);
  touched.add(dir / manifest.weights.name);
  try {
    auto features = transform::FeatureSpec::parse(manifest.features_json);
    return {.folder = dir, .manifest = std::move(manifest), .features = std::move(features)};
  } catch (const transform::SpecError& error) {
    throw Refused(Reason::kFeatures,
                  registry.shown(dir / "manifest.json") + ": field 'features': " + shortened(error.what(), 500));
  }
}

// Whether each row of the base's table means the same in the delta's: the features are the base's, or the vocabulary
// of the last one, whose rows end the table, has grown at its end.
bool keeps_rows(const std::string& base_json, const std::string& delta_json) {
  if (base_json == delta_json) return true;
  using Json = nlohmann::json;
  Json base = Json::parse(base_json);
  Json delta = Json::parse(delta_json);
  auto last = [](Json& spec) -> Json* {
    Json* found = nullptr;  // the ranges of categorical features lie in the order of the features
    for (Json& feature : spec["features"]) {
      if (feature["kind"] == "categorical") found = &feature;
    }
    return found;
  };
  Json* old_feature = last(base);
  Json* new_feature = last(delta);
  if (old_feature == nullptr || new_feature == nullptr) return false;
  auto vocabulary = [](Json& feature) { return feature["encode"].value("values", Json::array()); };
  Json old_values = vocabulary(*old_feature);
  Json new_values = vocabulary(*new_feature);
  if (new_values.size() < old_values.size() || !std::equal(old_values.begin(), old_values.end(), new_values.begin())) {
    return false;
  }
  (*new_feature)["encode"]["values"] = std::move(old_values);
  (*new_feature)["rows"] = (*old_feature)["rows"];
  delta["table_rows"] = base["table_rows"];
  return delta == base;
}

void check_fits(const SnapshotManifest& delta, const SnapshotManifest& base, const std::string& shown) {
  auto expect = [&](Reason reason, const char* field, const std::string& found, const std::string& expected) {
    if (found == expected) return;
    throw Refused(reason, shown + ": field '" + field + "': found " + found + "; expected " + expected +
                              ", as in version " + base.version + ", which it is built on");
  };
  expect(Reason::kAbi, "template.name", delta.source.name, base.source.name);
  expect(Reason::kAbi, "abi_hash", delta.abi_hash, base.abi_hash);
  expect(Reason::kAbi, "dim", std::to_string(delta.dim), std::to_string(base.dim));
  if (delta.chain != base.chain + 1) {
    throw Refused(Reason::kManifest, shown + ": field 'chain': found " + std::to_string(delta.chain) + "; expected " +
                                         std::to_string(base.chain + 1) + ": version " + base.version +
                                         ", which it is built on, has " + std::to_string(base.chain));
  }
  if (!keeps_rows(base.features_json, delta.features_json)) {
    throw Refused(Reason::kFeatures, shown + ": field 'features': found other ones than version " + base.version +
                                         " has, which it is built on; expected the same, or a longer vocabulary of "
                                         "the last one (publish a whole snapshot)");
  }
}

}  // namespace

int64_t ChainLink::table_rows() const { return std::max<int64_t>(features.table_rows(), 2); }

std::vector<ChainLink> read_chain(const Registry& registry, const std::string& scenario, const std::string& version,
                                  const fs::path& folder, TouchedFiles& touched) {
  std::vector<ChainLink> chain;
  chain.push_back(read_link(registry, scenario, version, folder, touched));
  while (!chain.back().manifest.base.empty()) {
    const std::string above = chain.back().manifest.version;
    try {
      const std::string& base = chain.back().manifest.base;
      chain.push_back(read_link(registry, scenario, base, registry.snapshot_dir(scenario, base), touched));
    } catch (const Refused& error) {
      throw Refused(error.reason(), std::string(error.what()) + " (version " + above + " is built on it)");
    }
    // Their numbers fall by one from link to link, so the chain ends.
    check_fits(chain[chain.size() - 2].manifest, chain.back().manifest,
               registry.shown(chain[chain.size() - 2].folder / "manifest.json"));
  }
  return chain;
}

}  // namespace smt::server
