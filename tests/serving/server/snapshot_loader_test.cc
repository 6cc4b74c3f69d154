#include "snapshot_loader.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fake_snapshot.h"
#include "refused_by.h"
#include "registry_builder.h"

namespace smt::server {
namespace {

constexpr const char* kVersion = "20260101-000000-000-00000000";

class SnapshotLoaderTest : public ::testing::Test {
 protected:
  SnapshotLoaderTest()
      : cache_(Registry(registry_.root()),
               [this](const std::filesystem::path&, BinaryManifest manifest) {
                 ++opened_;
                 if (open_error_) throw *open_error_;
                 return std::make_shared<FakeBinary>(std::move(manifest), score_);
               }),
        loader_(Registry(registry_.root()), cache_) {
    registry_.binary();
    registry_.snapshot("income", kVersion);
  }

  std::shared_ptr<const LoadedSnapshot> load(const std::string& scenario = "income") {
    TouchedFiles touched;
    try {
      auto snapshot = loader_.load(scenario, kVersion, touched, {});
      touched_ = std::move(touched);
      return snapshot;
    } catch (...) {
      touched_ = std::move(touched);
      throw;
    }
  }
  template <typename... Texts>
  void expect_refusal(Reason reason, Texts... texts) {
    expect_refused(
        reason, [&] { load(); }, texts...);
  }
  // The manifest changed at one place.
  void manifest(const char* pointer, const Json& value) {
    Json json = snapshot_manifest("income", kVersion, weights());
    json[Json::json_pointer(pointer)] = value;
    registry_.manifest("income", kVersion, json.dump());
  }

  RegistryBuilder registry_;
  int opened_ = 0;
  std::unique_ptr<Refused> open_error_;
  FakeBinary::Score score_;
  TouchedFiles touched_;
  BinaryCache cache_;
  SnapshotLoader loader_;
};

TEST_F(SnapshotLoaderTest, LoadsWhatIsWhole) {
  auto snapshot = load();
  EXPECT_EQ(snapshot->scenario, "income");
  EXPECT_EQ(snapshot->version, kVersion);
  EXPECT_EQ(snapshot->tasks[1].name, "like");
  EXPECT_EQ(snapshot->features.table_rows(), kTableRows);
  EXPECT_EQ(snapshot->weights.table_rows, kTableRows);
  EXPECT_EQ(snapshot->weight_bytes(), int64_t{4} * (kSlab + kTableRows * kDim));
  EXPECT_DOUBLE_EQ(snapshot->created, 1767323045.25);
}

TEST_F(SnapshotLoaderTest, OneBinaryServesEveryScenario) {
  registry_.snapshot("other", kVersion);
  auto first = load("income");
  auto second = load("other");
  EXPECT_EQ(first->binary, second->binary);
  EXPECT_EQ(opened_, 1);
  ASSERT_EQ(cache_.list().size(), 1U);
  EXPECT_EQ(cache_.list()[0]->manifest().abi_hash, kAbi);
}

TEST_F(SnapshotLoaderTest, ABinaryIsUnloadedWhenNoSnapshotUsesIt) {
  int before = FakeBinary::alive();
  auto snapshot = load();
  cache_.prune();
  EXPECT_EQ(cache_.list().size(), 1U);
  snapshot.reset();
  EXPECT_EQ(FakeBinary::alive(), before + 1) << "not by whoever drops the snapshot";
  cache_.prune();
  EXPECT_TRUE(cache_.list().empty());
  EXPECT_EQ(FakeBinary::alive(), before);
}

TEST_F(SnapshotLoaderTest, RefusesManifestsThatAreNotTheirPlaces) {
  manifest("/scenario", "other");
  expect_refusal(Reason::kManifest, "is of other/", "its place says income/");
  manifest("/version", "v9");
  expect_refusal(Reason::kManifest, "is of income/v9");
}

TEST_F(SnapshotLoaderTest, RefusesAChangedManifest) {
  std::filesystem::path path = registry_.version_dir("income", kVersion) / "manifest.json";
  write_file(path, read_file(path) + " ");
  expect_refusal(Reason::kChecksum, "manifest.json: sha256 is", "manifest.sha256 says");
  std::filesystem::remove(registry_.version_dir("income", kVersion) / "manifest.sha256");
  expect_refusal(Reason::kManifest, "manifest.sha256: no such file");
  std::filesystem::remove(path);
  expect_refusal(Reason::kManifest, "scenarios/income/versions/", "manifest.json: no such file");
}

TEST_F(SnapshotLoaderTest, RefusesWeightsThatDiffer) {
  write_file(registry_.version_dir("income", kVersion) / "weights.safetensors", weights(0.25F));
  expect_refusal(Reason::kChecksum, "weights.safetensors: sha256 is");
  std::filesystem::remove(registry_.version_dir("income", kVersion) / "weights.safetensors");
  expect_refusal(Reason::kManifest, "weights.safetensors: no such file");
}

TEST_F(SnapshotLoaderTest, RefusesSizesThatDoNotFit) {
  registry_.snapshot("income", kVersion, weights(1, kSlab + 16));
  expect_refusal(Reason::kWeights, "elements of tensor 'slab': found 48; expected 32");
  registry_.snapshot("income", kVersion, weights(1, kSlab, kTableRows, kDim + 1));
  expect_refusal(Reason::kWeights, "columns of tensor 'table': found 3; expected 2");
  registry_.snapshot("income", kVersion, weights(1, kSlab, kTableRows - 1));
  expect_refusal(Reason::kWeights, "rows of tensor 'table': found 4; expected 5");
  registry_.snapshot("income", kVersion, weights(NAN));
  expect_refusal(Reason::kWeights, "tensor 'slab': element 0 is not finite");
}

TEST_F(SnapshotLoaderTest, RefusesAnotherAbi) {
  manifest("/abi_hash", std::string(64, 'b'));
  expect_refusal(Reason::kAbi, "no template binary for ABI hash bbbb", "the registry has: " + kAbi);
  EXPECT_FALSE(touched_.changed());
  std::filesystem::create_directories(registry_.root() / "templates" / "ranking" / std::string(64, 'b') / "cpu");
  write_file(registry_.root() / "templates" / "ranking" / std::string(64, 'b') / "cpu" / "manifest.json", "{}");
  EXPECT_TRUE(touched_.changed()) << "a binary that appears is a reason to try again";
  manifest("/dim", 3);
  expect_refusal(Reason::kAbi, "field 'dim': found 3; expected 2");
  manifest("/tasks/1/head", 2);
  expect_refusal(Reason::kAbi, "field 'tasks[1].head': found 2; expected 0..1");
  manifest("/template/name", "nothing");
  expect_refusal(Reason::kAbi, "of template 'nothing'", "the registry has: none");
}

TEST_F(SnapshotLoaderTest, RefusesFeaturesThatDoNotFit) {
  manifest("/features/dense_slots", 4);
  expect_refusal(Reason::kFeatures, "field 'features.dense_slots': found 4; expected 3");
  manifest("/features/categorical_slots", 3);
  expect_refusal(Reason::kFeatures, "field 'features.categorical_slots': found 3; expected 2");
  manifest("/features/features/0/kind", "sparse");
  expect_refusal(Reason::kFeatures, "field 'features': ");
  manifest("/features/features/1/first_row", 1);
  expect_refusal(Reason::kFeatures, "field 'features': ");
}

TEST_F(SnapshotLoaderTest, RefusesBinariesThatDiffer) {
  write_file(registry_.binary_dir() / "model.pt2", "compIled");
  expect_refusal(Reason::kChecksum, "model.pt2: sha256 is");
  write_file(registry_.binary_dir() / "model.pt2", "compiled!");
  expect_refusal(Reason::kChecksum, "model.pt2: 9 bytes; the manifest says 8");
  Json other = binary_manifest();
  other["abi_hash"] = std::string(64, 'c');
  registry_.binary(other);
  expect_refusal(Reason::kManifest, "field 'abi_hash': found cccc", "expected the folder's name");
  write_file(registry_.binary_dir() / "manifest.json", "not json");
  expect_refusal(Reason::kManifest, "not valid JSON");
  EXPECT_EQ(opened_, 0);
  registry_.binary();
  open_error_ = std::make_unique<Refused>(Reason::kBinary, "wrong torch");
  expect_refusal(Reason::kBinary, "wrong torch");
  open_error_.reset();
  EXPECT_NE(load(), nullptr);
}

TEST_F(SnapshotLoaderTest, RefusesWhatFailsOnATrialRow) {
  score_ = [](const WeightsView&) { return std::numeric_limits<float>::quiet_NaN(); };
  expect_refusal(Reason::kProbe, "trial row for task 'click' is not finite");
  cache_.prune();
  score_ = [](const WeightsView&) -> float { throw std::runtime_error("shape mismatch"); };
  expect_refusal(Reason::kProbe, "a trial row failed: shape mismatch");
}

// Every byte of every file of the snapshot, one at a time: refused, and nothing but Refused.
TEST_F(SnapshotLoaderTest, RefusesEveryDamagedByte) {
  for (const char* name : {"manifest.json", "manifest.sha256", "weights.safetensors"}) {
    std::filesystem::path path = registry_.version_dir("income", kVersion) / name;
    std::string whole = read_file(path);
    for (size_t at = 0; at < whole.size(); at += 3) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ 0x21);
      write_file(path, damaged);
      Refusal found = refused_by([&] { load(); });
      EXPECT_TRUE(found.refused) << name << " with byte " << at << " changed was accepted";
      EXPECT_EQ(found.reason, Reason::kChecksum) << found.message;
    }
    write_file(path, whole);
  }
  EXPECT_NE(load(), nullptr);
}

}  // namespace
}  // namespace smt::server
