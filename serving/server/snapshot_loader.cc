#include "snapshot_loader.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "file_io.h"
#include "names.h"
#include "refusal.h"
#include "sha256.h"
#include "weights_file.h"

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

void expect(Reason reason, int64_t found, int64_t expected, const std::string& shown, const std::string& what) {
  if (found == expected) return;
  throw Refused(reason,
                shown + ": " + what + ": found " + std::to_string(found) + "; expected " + std::to_string(expected));
}

transform::FeatureSpec parse_features(const SnapshotManifest& manifest, const BinaryManifest& binary,
                                      const std::string& shown) {
  try {
    auto features = transform::FeatureSpec::parse(manifest.features_json);
    expect(Reason::kFeatures, features.dense_slots(), binary.dense_slots, shown, "field 'features.dense_slots'");
    expect(Reason::kFeatures, features.categorical_slots(), binary.categorical_slots, shown,
           "field 'features.categorical_slots'");
    return features;
  } catch (const transform::SpecError& error) {
    throw Refused(Reason::kFeatures, shown + ": field 'features': " + shortened(error.what(), 500));
  }
}

// One row whose bags hold nothing and the first table rows: the smallest input that touches all of the code.
transform::Batch trial_batch(const BinaryManifest& binary, int64_t table_rows) {
  transform::Batch batch;
  batch.rows = 1;
  batch.dense.assign(static_cast<size_t>(binary.dense_slots), 0.0F);
  for (int64_t row = 0; row < std::min<int64_t>(table_rows, 8); ++row) batch.ids.push_back(row);
  batch.offsets = {0, 0, static_cast<int64_t>(batch.ids.size())};
  batch.bag_index.assign(static_cast<size_t>(binary.categorical_slots), 1);
  return batch;
}

void probe(const LoadedSnapshot& snapshot, const std::string& shown) {
  const BinaryManifest& binary = snapshot.binary->manifest();
  std::vector<float> scores;
  try {
    const int32_t slot = snapshot.weights.index();
    snapshot.binary->run({&slot, 1}, trial_batch(binary, snapshot.weights.table_rows()), scores);
  } catch (const std::exception& error) {
    throw Refused(Reason::kProbe, shown + ": a trial row failed: " + shortened(error.what(), 500));
  }
  for (const Task& task : snapshot.tasks) {
    if (!std::isfinite(scores.at(static_cast<size_t>(task.head)))) {
      throw Refused(Reason::kProbe,
                    shown + ": the score of a trial row for task " + quote(task.name) + " is not finite");
    }
  }
}

// The table goes from the file into its place in the arena; of the dense weights only the packed form stays.
WeightSlot load_weights(const fs::path& path, const std::string& shown, const FileEntry& file,
                        const TemplateBinary& binary, int64_t table_rows, std::stop_token stop) {
  const BinaryManifest& abi = binary.manifest();
  const auto elements = static_cast<size_t>(abi.slab_elements);
  // On the heap, which keeps such a block from load to load: clearing fresh pages takes as long as hashing them.
  std::unique_ptr<float[]> slab;
  WeightSlot slot;
  auto place = [&](const WeightShapes& found) -> WeightPlaces {
    expect(Reason::kWeights, found.slab_elements, abi.slab_elements, shown, "elements of tensor 'slab'");
    expect(Reason::kWeights, found.dim, abi.dim, shown, "columns of tensor 'table'");
    expect(Reason::kWeights, found.table_rows, table_rows, shown, "rows of tensor 'table'");
    slab = std::make_unique_for_overwrite<float[]>(elements);
    try {
      slot = binary.allocate(found.table_rows);
    } catch (const ArenaError& error) {
      throw Refused(Reason::kIo, shown + ": " + error.what());
    }
    return {{slab.get(), elements}, slot.table()};
  };
  read_weights(path, shown, file, place, std::move(stop));
  binary.pack({slab.get(), elements}, slot);
  return slot;
}

std::shared_ptr<const LoadedSnapshot> load_verified(const Registry& registry, BinaryCache& binaries,
                                                    const std::string& scenario, const std::string& version,
                                                    TouchedFiles& touched, std::stop_token stop,
                                                    const AdmitFunction& admit) {
  fs::path dir = registry.snapshot_dir(scenario, version);
  fs::path weights_path = dir / "weights.safetensors";
  for (const fs::path& path : {dir / "manifest.json", dir / "manifest.sha256", weights_path}) touched.add(path);
  SnapshotManifest manifest = read_manifest(registry, dir, scenario, version);
  std::string shown = registry.shown(dir / "manifest.json");

  auto binary = binaries.get(manifest.source.name, manifest.abi_hash, touched);
  const BinaryManifest& abi = binary->manifest();
  expect(Reason::kAbi, manifest.dim, abi.dim, shown, "field 'dim'");
  for (size_t i = 0; i < manifest.tasks.size(); ++i) {
    if (manifest.tasks[i].head < abi.tasks) continue;
    throw Refused(Reason::kAbi, shown + ": field 'tasks[" + std::to_string(i) + "].head': found " +
                                    std::to_string(manifest.tasks[i].head) + "; expected 0.." +
                                    std::to_string(abi.tasks - 1) + ", the template's heads");
  }
  transform::FeatureSpec features = parse_features(manifest, abi, shown);

  // The binary's smallest table has two rows, also for a scenario without categorical features.
  const int64_t table_rows = std::max<int64_t>(features.table_rows(), 2);
  constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
  admit(abi.packed_bytes + table_rows * abi.dim * kFloat, abi.slab_elements * kFloat);
  WeightSlot weights =
      load_weights(weights_path, registry.shown(weights_path), manifest.weights, *binary, table_rows, std::move(stop));

  LoadedSnapshot snapshot{.scenario = scenario,
                          .version = version,
                          .source = manifest.source,
                          .abi_hash = manifest.abi_hash,
                          .tasks = std::move(manifest.tasks),
                          .created = manifest.created,
                          .features = std::move(features),
                          .binary = std::move(binary),
                          .weights = std::move(weights)};
  probe(snapshot, registry.shown(dir));
  return std::make_shared<const LoadedSnapshot>(std::move(snapshot));
}

}  // namespace

std::shared_ptr<const LoadedSnapshot> SnapshotLoader::load(const std::string& scenario, const std::string& version,
                                                           TouchedFiles& touched, std::stop_token stop,
                                                           const AdmitFunction& admit) const {
  try {
    return load_verified(registry_, binaries_, scenario, version, touched, std::move(stop), admit);
  } catch (const Refused&) {
    throw;
  } catch (const std::exception& error) {  // out of memory, a library's own error: refuse, do not fall
    throw Refused(Reason::kIo,
                  "scenario " + quote(scenario) + " version " + version + ": " + shortened(error.what(), 500));
  }
}

}  // namespace smt::server
