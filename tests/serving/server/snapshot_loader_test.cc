#include "snapshot_loader.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "fake_snapshot.h"
#include "kernels.h"
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
      auto snapshot = loader_.load(scenario, kVersion, registry_.version_dir(scenario, kVersion), touched, {}, admit_);
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
  std::vector<int64_t> admitted_;
  AdmitFunction admit_ = [this](int64_t resident, int64_t passing) { admitted_ = {resident, passing}; };
  BinaryCache cache_;
  SnapshotLoader loader_;
};

TEST_F(SnapshotLoaderTest, LoadsWhatIsWhole) {
  auto snapshot = load();
  EXPECT_EQ(snapshot->scenario, "income");
  EXPECT_EQ(snapshot->version, kVersion);
  EXPECT_EQ(snapshot->tasks[1].name, "like");
  EXPECT_EQ(snapshot->features.table_rows(), kTableRows);
  EXPECT_EQ(snapshot->weights.table_rows(), kTableRows);
  EXPECT_EQ(snapshot->weight_bytes(), kPacked + int64_t{4} * kTableRows * kDim) << "the float slab is not kept";
  EXPECT_EQ(admitted_, (std::vector<int64_t>{snapshot->weight_bytes(), kSlab * int64_t{sizeof(float)}}));
  EXPECT_DOUBLE_EQ(snapshot->created, 1767323045.25);
}

// Every element of the slab has its own value, and each is found where program.h says that packed weights lie.
TEST_F(SnapshotLoaderTest, PacksTheDenseWeights) {
  std::vector<float> slab(kSlab);
  for (size_t i = 0; i < slab.size(); ++i) slab[i] = static_cast<float>(i + 1);  // exact in bf16
  registry_.snapshot("income", kVersion,
                     safetensors({{"slab", {kSlab}, slab}, {"table", {kTableRows, kDim}, std::vector<float>(10, 7)}}));
  auto snapshot = load();
  std::span<const std::byte> packed = snapshot->weights.packed();
  ASSERT_EQ(packed.size(), static_cast<size_t>(kPacked));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(packed.data()) % 64, 0U);
  // [16 pairs of k][16 columns][2] bf16, or integers that a scale of the column makes floats.
  const bool integers = cpu::kernels_of_environment().weights16 == cpu::Weights16::kIntegers;
  const auto* mlp = reinterpret_cast<const uint16_t*>(packed.data() + kPackedMlp);
  for (size_t n = 0; n < 16; ++n) {
    for (size_t k = 0; k < 32; ++k) {
      const uint16_t half = mlp[(k / 2 * 16 + n) * 2 + k % 2];
      const uint32_t bits = uint32_t{half} << 16;
      float weight = 0;
      std::memcpy(&weight, &bits, sizeof weight);
      if (integers) {
        weight = static_cast<int16_t>(half) * packed_float(packed, kPackedMlpScale + static_cast<int64_t>(4 * n));
      }
      EXPECT_NEAR(weight, n < 2 && k < 3 ? slab[n * 3 + k] : 0.0F, integers ? 1e-3 : 0.0) << n << " " << k;
    }
  }
  auto expect_floats = [&](int64_t at, size_t first, size_t count) {
    for (size_t i = 0; i < 16; ++i) {
      EXPECT_EQ(packed_float(packed, at + static_cast<int64_t>(4 * i)), i < count ? slab[first + i] : 0.0F)
          << at << " " << i;
    }
  };
  expect_floats(kPackedMlpBias, 6, 2);
  expect_floats(kPackedHeads, 8, 6);
  expect_floats(kPackedHeads + 64, 14, 6);
  expect_floats(kPackedHeadBias, 20, 2);
  std::span<const float> table = snapshot->weights.table();
  EXPECT_EQ(table.size(), static_cast<size_t>(kTableRows * kDim));
  EXPECT_EQ(table[9], 7.0F);
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
  registry_.binary([] {
    Json old = binary_manifest();
    old["format"] = 1;
    return old;
  }());
  expect_refusal(Reason::kManifest, "field 'format': found 1", "compile the template again");
  EXPECT_EQ(opened_, 0);
  registry_.binary();
  open_error_ = std::make_unique<Refused>(Reason::kBinary, "wrong torch");
  expect_refusal(Reason::kBinary, "wrong torch");
  open_error_.reset();
  EXPECT_NE(load(), nullptr);
}

TEST_F(SnapshotLoaderTest, RefusesProgramsThatAreNotTheManifests) {
  struct Case {
    const char* field;
    Json value;
    const char* message;
  };
  std::vector<int64_t> half_table = kProgram;
  half_table[15] = 1;
  const std::vector<int64_t> ungathered{1, 1, 3, 1, 7, 0, 2, 1, 1, 0, 8, 20};
  const std::vector<Case> kCases{
      {"kernel_abi", 2, "field 'kernel_abi': found 2; expected 1, the kernels in this server"},
      {"program", Json::array(), "field 'program': tile program, integer 0 (format): the program ends here"},
      {"program", Json::array({1, 9}), "field 'program': tile program, integer 2 (precision): found 9; expected 0..2"},
      {"program", Json::array({2}), "field 'program': tile program, integer 1 (format): found 2; expected 1..1"},
      {"program", ungathered, "field 'program': found no gather of table rows; expected one"},
      {"program", half_table, "field 'program': found a gather of another table type; expected float32"},
      {"precision", "fp32", "field 'precision': found 'fp32'; expected 'bf16', the program's"},
      {"packed_bytes", kPacked + 64, "field 'packed_bytes': found 1536; expected 1472, the program's"},
      {"slab_elements", 21, "field 'slab_elements': found 21; expected at least 22, which the program reads"},
      {"dense_slots", 4, "field 'dense_slots': found 4; expected 3, the program's"},
      {"categorical_slots", 3, "field 'categorical_slots': found 3; expected 2, the program's"},
      {"dim", 3, "field 'dim': found 3; expected 2, the program's"},
      {"tasks", 3, "field 'tasks': found 3; expected 2, the program's"},
  };
  for (const Case& test : kCases) {
    Json json = binary_manifest();
    json[test.field] = test.value;
    // The signature agrees with the field, so that it is the program that is compared.
    json["inputs"][0]["shape"][1] = json["packed_bytes"];
    json["inputs"][2]["shape"][1] = json["dim"];
    json["inputs"][4]["shape"][1] = json["dense_slots"];
    json["inputs"][7]["shape"][1] = json["categorical_slots"];
    json["outputs"][0]["shape"][1] = json["tasks"];
    registry_.binary(json);
    expect_refusal(Reason::kBinary, test.message);
  }
  registry_.binary();
  EXPECT_NE(load(), nullptr);
}

TEST_F(SnapshotLoaderTest, ViewsKeepTheSlabAsItIs) {
  std::vector<float> found;
  score_ = [&](std::span<const std::byte> packed) {
    found.assign(as_floats(packed).begin(), as_floats(packed).end());
    return 0.5F;
  };
  registry_.binary(views_manifest());
  ASSERT_NE(load(), nullptr);
  std::vector<float> slab(kSlab);
  std::string file = weights();
  size_t data = file.size() - (kSlab + kTableRows * kDim) * sizeof(float);
  std::memcpy(slab.data(), file.data() + data, kSlab * sizeof(float));
  EXPECT_EQ(found, slab);
}

TEST_F(SnapshotLoaderTest, RefusesViewsOfOtherSizes) {
  struct Case {
    const char* field;
    Json value;
    const char* message;
  };
  const std::vector<Case> kCases{
      {"precision", "bf16", "field 'precision': found 'bf16'; expected 'fp32', as views are"},
      {"program", kProgram, "field 'program': found a tile program; expected none"},
      {"packed_bytes", 192, "field 'packed_bytes': found 192; expected 128, the slab's"},
  };
  for (const Case& test : kCases) {
    Json json = views_manifest();
    json[test.field] = test.value;
    registry_.binary(json);
    expect_refusal(Reason::kBinary, test.message);
  }
}

// Whatever integers the manifest holds: a program, or refused.
TEST_F(SnapshotLoaderTest, SurvivesAnyProgram) {
  std::mt19937_64 random(5);
  const int64_t kValues[] = {-1, 0, 1, 2, 7, 1000, int64_t{1} << 24, INT64_MAX, INT64_MIN};
  for (int round = 0; round < 300; ++round) {
    Json json = binary_manifest();
    for (int i = 0; i < 1 + round % 3; ++i) {
      json["program"][random() % kProgram.size()] = kValues[random() % std::size(kValues)];
    }
    BinaryManifest manifest = parse_binary_manifest(json.dump(), "m");
    refused_by([&] { FakeBinary binary(std::move(manifest)); });  // anything but Refused fails the test
  }
}

TEST_F(SnapshotLoaderTest, RefusesWhatFailsOnATrialRow) {
  score_ = [](std::span<const std::byte>) { return std::numeric_limits<float>::quiet_NaN(); };
  expect_refusal(Reason::kProbe, "trial row for task 'click' is not finite");
  cache_.prune();
  score_ = [](std::span<const std::byte>) -> float { throw std::runtime_error("shape mismatch"); };
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
