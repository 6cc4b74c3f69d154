#include "snapshot_loader.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "chain_weights.h"
#include "file_io.h"
#include "names.h"
#include "refusal.h"
#include "snapshot_chain.h"

namespace smt::server {
namespace {

void expect(Reason reason, int64_t found, int64_t expected, const std::string& shown, const std::string& field) {
  if (found == expected) return;
  throw Refused(reason, shown + ": field '" + field + "': found " + std::to_string(found) + "; expected " +
                            std::to_string(expected));
}

void check_fits(const ChainLink& link, const BinaryManifest& abi, const std::string& shown) {
  const SnapshotManifest& manifest = link.manifest;
  expect(Reason::kAbi, manifest.dim, abi.dim, shown, "dim");
  for (size_t i = 0; i < manifest.tasks.size(); ++i) {
    if (manifest.tasks[i].head < abi.tasks) continue;
    throw Refused(Reason::kAbi, shown + ": field 'tasks[" + std::to_string(i) + "].head': found " +
                                    std::to_string(manifest.tasks[i].head) + "; expected 0.." +
                                    std::to_string(abi.tasks - 1) + ", the template's heads");
  }
  expect(Reason::kFeatures, link.features.dense_slots(), abi.dense_slots, shown, "features.dense_slots");
  expect(Reason::kFeatures, link.features.categorical_slots(), abi.categorical_slots, shown,
         "features.categorical_slots");
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
    transform::Batch batch = trial_batch(binary, snapshot.table_rows());
    snapshot.resolve(batch.ids);
    snapshot.binary->run({&slot, 1}, batch, scores);
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

}  // namespace

std::shared_ptr<const LoadedSnapshot> SnapshotLoader::resident(const std::string& scenario, const std::string& version,
                                                               const TemplateBinary* binary) const {
  auto found = loaded_.find({scenario, version});
  auto snapshot = found == loaded_.end() ? nullptr : found->second.lock();
  return snapshot && snapshot->binary.get() == binary ? snapshot : nullptr;
}

std::shared_ptr<const LoadedSnapshot> SnapshotLoader::load_verified(const std::string& scenario,
                                                                    const std::string& version,
                                                                    const std::filesystem::path& folder,
                                                                    TouchedFiles& touched, std::stop_token stop,
                                                                    const AdmitFunction& admit) {
  std::vector<ChainLink> chain = read_chain(registry_, scenario, version, folder, touched);
  const SnapshotManifest& manifest = chain.front().manifest;
  auto binary = binaries_.get(manifest.source.name, manifest.abi_hash, touched);
  check_fits(chain.front(), binary->manifest(), registry_.shown(folder / "manifest.json"));

  // The nearest version beneath that is here: only the deltas above it are read.
  std::shared_ptr<const LoadedSnapshot> below;
  size_t deltas = 0;
  while (!below && ++deltas < chain.size()) {
    below = resident(scenario, chain[deltas].manifest.version, binary.get());
  }
  LoadBytes bytes =
      below ? bytes_of_deltas(std::span(chain).first(deltas), *below) : bytes_of_whole(chain, binary->manifest());
  admit(bytes.resident, bytes.passing);
  const Reading reading(std::move(stop), &pace_);
  ChainWeights weights = below ? read_deltas(registry_, std::span(chain).first(deltas), *below, reading)
                               : read_whole(registry_, chain, *binary, reading);

  LoadedSnapshot snapshot{.scenario = scenario,
                          .version = version,
                          .source = manifest.source,
                          .abi_hash = manifest.abi_hash,
                          .tasks = manifest.tasks,
                          .created = manifest.created,
                          .features = std::move(chain.front().features),
                          .binary = std::move(binary),
                          .weights = std::move(weights.slot),
                          .overlay = std::move(weights.overlay)};
  probe(snapshot, registry_.shown(folder));
  return std::make_shared<const LoadedSnapshot>(std::move(snapshot));
}

std::shared_ptr<const LoadedSnapshot> SnapshotLoader::load(const std::string& scenario, const std::string& version,
                                                           const std::filesystem::path& folder, TouchedFiles& touched,
                                                           std::stop_token stop, const AdmitFunction& admit) {
  try {
    auto snapshot = load_verified(scenario, version, folder, touched, std::move(stop), admit);
    std::erase_if(loaded_, [](const auto& entry) { return entry.second.expired(); });
    loaded_.insert_or_assign({scenario, version}, snapshot);
    return snapshot;
  } catch (const Refused&) {
    throw;
  } catch (const std::exception& error) {  // out of memory, a library's own error: refuse, do not fall
    throw Refused(Reason::kIo,
                  "scenario " + quote(scenario) + " version " + version + ": " + shortened(error.what(), 500));
  }
}

}  // namespace smt::server
