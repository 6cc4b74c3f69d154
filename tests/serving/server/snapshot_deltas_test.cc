// Versions that were published as deltas, from their files to rows of the pool.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

#include "fake_snapshot.h"
#include "refused_by.h"
#include "registry_builder.h"
#include "snapshot_loader.h"

namespace smt::server {
namespace {

std::string version(int number) { return "20260101-000000-00" + std::to_string(number) + "-00000000"; }

class SnapshotDeltasTest : public ::testing::Test {
 protected:
  SnapshotDeltasTest() { registry_.binary(); }

  // What a server that was just started holds.
  SnapshotLoader& fresh() {
    loader_.reset();
    cache_ = std::make_unique<BinaryCache>(Registry(registry_.root()),
                                           [](const std::filesystem::path&, BinaryManifest manifest) {
                                             return std::make_shared<FakeBinary>(std::move(manifest));
                                           });
    loader_ = std::make_unique<SnapshotLoader>(Registry(registry_.root()), *cache_);
    return *loader_;
  }
  std::shared_ptr<const LoadedSnapshot> load(int number) {
    if (!loader_) fresh();
    TouchedFiles touched;
    return loader_->load("income", version(number), registry_.version_dir("income", version(number)), touched, {},
                         admit_);
  }
  template <typename... Texts>
  void expect_refusal(int number, Reason reason, Texts... texts) {
    expect_refused(
        reason, [&] { load(number); }, texts...);
  }
  void whole(int number, float value = 0.5F) { registry_.snapshot("income", version(number), weights(value)); }
  void delta(int number, std::vector<int64_t> rows, float value, const std::function<void(Json&)>& change = {}) {
    registry_.delta("income", version(number), version(number - 1), number, delta_file(std::move(rows), value), change);
  }

  RegistryBuilder registry_;
  int64_t admitted_ = 0;  // bytes that were to stay
  AdmitFunction admit_ = [this](int64_t resident, int64_t) { admitted_ = resident; };
  std::unique_ptr<BinaryCache> cache_;
  std::unique_ptr<SnapshotLoader> loader_;
};

// The first float of each row, found as the op finds it.
std::vector<float> rows_of(const LoadedSnapshot& snapshot) {
  std::vector<int64_t> ids(static_cast<size_t>(snapshot.table_rows()));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i);
  snapshot.resolve(ids);
  // Its slot and the first row of its table lie in the pool at the same distance from the pool's beginning.
  const float* pool = snapshot.weights.range()->values().data() - snapshot.weights.range()->first_row() * kDim;
  int64_t base = snapshot.overlay ? 0 : snapshot.weights.range()->first_row();
  std::vector<float> found;
  for (int64_t id : ids) found.push_back(pool[(base + id) * kDim]);
  return found;
}

float head_bias(const LoadedSnapshot& snapshot) { return packed_float(snapshot.weights.packed(), kPackedHeadBias); }

TEST_F(SnapshotDeltasTest, ADeltaOnAVersionThatIsHereSharesItsTable) {
  whole(0, 0.5F);
  delta(1, {1, 4}, 2);
  delta(2, {0, 4}, 3);
  auto base = load(0);
  auto first = load(1);
  auto second = load(2);
  EXPECT_EQ(rows_of(*base), (std::vector<float>{0.5F, 0.5F, 0.5F, 0.5F, 0.5F}));
  EXPECT_EQ(rows_of(*first), (std::vector<float>{0.5F, 2, 0.5F, 0.5F, 2}));
  EXPECT_EQ(rows_of(*second), (std::vector<float>{3, 2, 0.5F, 0.5F, 3}));
  EXPECT_EQ(first->weights.range(), base->weights.range());
  EXPECT_EQ(second->weights.range(), base->weights.range());
  EXPECT_EQ(head_bias(*base), 0.5F);
  EXPECT_EQ(head_bias(*first), 2);
  EXPECT_EQ(head_bias(*second), 3);
  EXPECT_EQ(second->version, version(2));
  EXPECT_GE(admitted_, kPacked + second->overlay->bytes() - first->overlay->bytes());
}

TEST_F(SnapshotDeltasTest, WhatVersionsShareIsToldApart) {
  whole(0);
  delta(1, {1, 4}, 2);
  delta(2, {0, 4}, 3);
  auto base = load(0);
  auto first = load(1);
  auto second = load(2);
  const int64_t table = int64_t{4} * kTableRows * kDim;
  const int64_t rows = int64_t{4} * 2 * kDim;  // of a delta
  std::map<const void*, int64_t> shared;
  for (const auto& snapshot : {base, first, second}) {
    const HeldBytes held = snapshot->held_bytes();
    EXPECT_EQ(held.total(), snapshot->weight_bytes());
    EXPECT_GE(held.own, kPacked);
    EXPECT_LT(held.own, kPacked + 100) << "its slot and its map";
    for (const SharedBytes& each : held.shared) shared[each.owner] = each.bytes;
  }
  ASSERT_EQ(shared.size(), 3U) << "the table, and the rows of each delta";
  int64_t sum = 0;
  for (const auto& [owner, bytes] : shared) sum += bytes;
  EXPECT_EQ(sum, table + 2 * rows);
}

TEST_F(SnapshotDeltasTest, ATableLivesAsLongAsAVersionOverIt) {
  whole(0);
  delta(1, {2}, 2);
  auto base = load(0);
  std::weak_ptr<PoolRange> table = base->weights.range();
  auto first = load(1);
  base.reset();
  EXPECT_EQ(rows_of(*first), (std::vector<float>{0.5F, 0.5F, 2, 0.5F, 0.5F}));
  first.reset();
  EXPECT_TRUE(table.expired());
}

TEST_F(SnapshotDeltasTest, WithoutItsBaseTheWholeChainIsRead) {
  whole(0, 0.5F);
  delta(1, {1, 4}, 2);
  delta(2, {0, 4}, 3);
  auto second = load(2);
  EXPECT_EQ(second->overlay, nullptr);
  EXPECT_EQ(rows_of(*second), (std::vector<float>{3, 2, 0.5F, 0.5F, 3}));
  EXPECT_EQ(head_bias(*second), 3);
}

TEST_F(SnapshotDeltasTest, VersionsInBetweenMayBeLeftOut) {
  whole(0, 0.5F);
  delta(1, {1, 4}, 2);
  delta(2, {0, 4}, 3);
  delta(3, {}, 4);
  auto base = load(0);
  auto third = load(3);
  EXPECT_EQ(third->weights.range(), base->weights.range());
  EXPECT_EQ(rows_of(*third), (std::vector<float>{3, 2, 0.5F, 0.5F, 3}));
  EXPECT_EQ(head_bias(*third), 4);
}

// As if each version had been published whole, whatever was loaded before and is still here.
TEST_F(SnapshotDeltasTest, RandomChainsAreWhatWasPublished) {
  std::mt19937 random(7);
  for (int round = 0; round < 30; ++round) {
    fresh();
    whole(0, 1);
    std::vector<std::vector<float>> expected{std::vector<float>(kTableRows, 1)};
    for (int number = 1; number <= 6; ++number) {
      std::vector<int64_t> rows;
      expected.push_back(expected.back());
      for (int64_t row = 0; row < kTableRows; ++row) {
        if (random() % 2 == 0) continue;
        rows.push_back(row);
        expected.back()[static_cast<size_t>(row)] = static_cast<float>(number + 1);
      }
      delta(number, rows, static_cast<float>(number + 1));
    }
    std::vector<std::shared_ptr<const LoadedSnapshot>> held(7);
    for (int step = 0; step < 12; ++step) {
      size_t number = random() % held.size();
      held[number] = load(static_cast<int>(number));
      for (size_t i = 0; i < held.size(); ++i) {
        ASSERT_TRUE(!held[i] || rows_of(*held[i]) == expected[i]) << round << " " << i;
      }
      held[random() % held.size()].reset();
    }
  }
}

TEST_F(SnapshotDeltasTest, AVocabularyMayGrowAtItsEnd) {
  auto grown = [](Json& manifest) {
    manifest["features"]["table_rows"] = kTableRows + 1;
    manifest["features"]["features"][1]["rows"] = kTableRows + 1;
    manifest["features"]["features"][1]["encode"]["values"] = {"a", "b", "c", "d"};
  };
  whole(0);
  delta(1, {1, kTableRows}, 2, grown);
  const std::vector<float> expected{0.5F, 2, 0.5F, 0.5F, 0.5F, 2};
  EXPECT_EQ(rows_of(*load(1)), expected) << "from the files";
  fresh();
  auto base = load(0);
  auto first = load(1);
  EXPECT_EQ(rows_of(*first), expected) << "over its base";
  EXPECT_EQ(first->weights.range(), base->weights.range());

  delta(1, {1}, 2, grown);
  expect_refusal(1, Reason::kWeights, "rows in tensor 'rows' from 5 on, where the table of its base ends: found 0");
  delta(1, {}, 2, [](Json& manifest) { manifest["features"]["features"][1]["encode"]["values"] = {"b", "a", "c"}; });
  expect_refusal(1, Reason::kFeatures, "found other ones than version " + version(0));
  delta(1, {}, 2, [](Json& manifest) { manifest["features"]["features"][0]["default"] = 3.0; });
  expect_refusal(1, Reason::kFeatures, "publish a whole snapshot");
}

TEST_F(SnapshotDeltasTest, RefusesRowsThatAreNone) {
  whole(0);
  auto base = load(0);
  delta(1, {kTableRows}, 2);
  expect_refusal(1, Reason::kWeights, "delta.safetensors: tensor 'rows': found row 5; expected 0..4");
  delta(1, {2, 2}, 2);
  expect_refusal(1, Reason::kWeights, "tensor 'rows': element 1 is 2; expected strictly increasing");
  delta(1, {3, 1}, 2);
  expect_refusal(1, Reason::kWeights, "tensor 'rows': element 1 is 1");
  delta(1, {-1}, 2);
  expect_refusal(1, Reason::kWeights, "tensor 'rows': element 0 is -1");
  delta(1, {0, 1, 2, 3, 4, 5}, 2);
  expect_refusal(1, Reason::kWeights, "found 6 rows; expected at most the table's 5");
  delta(1, {1}, NAN);
  expect_refusal(1, Reason::kWeights, "is not finite");
  EXPECT_EQ(rows_of(*base), std::vector<float>(kTableRows, 0.5F)) << "what is served is as it was";
}

TEST_F(SnapshotDeltasTest, RefusesFilesOfAnotherForm) {
  whole(0);
  auto publish = [&](const std::string& file) { registry_.delta("income", version(1), version(0), 1, file, {}); };
  publish(weights());
  expect_refusal(1, Reason::kWeights, "tensor 'table': expected only 'slab', 'rows' and 'values'");
  publish(safetensors({{"slab", {kSlab}, std::vector<float>(kSlab)}, {"values", {1, kDim}, {1, 2}}}));
  expect_refusal(1, Reason::kWeights, "no tensor 'rows'");
  publish(safetensors({{"rows", {1}, {1}}}));
  expect_refusal(1, Reason::kWeights, "tensor 'rows': found F32 of 1 dimensions; expected I64 of 1");
  publish(delta_file({1}, 1, kSlab + 1));
  expect_refusal(1, Reason::kWeights, "elements of tensor 'slab': found 33; expected 32");
  publish(delta_file({1}, 1, kSlab, kDim + 1));
  expect_refusal(1, Reason::kWeights, "columns of tensor 'values': found 3; expected 2");
}

TEST_F(SnapshotDeltasTest, RefusesChainsThatDoNotFit) {
  whole(0);
  auto at = [](const char* pointer, const Json& value) {
    return [=](Json& manifest) { manifest[Json::json_pointer(pointer)] = value; };
  };
  delta(1, {1}, 2, at("/chain", 2));
  expect_refusal(1, Reason::kManifest, "field 'chain': found 2; expected 1: version " + version(0));
  delta(1, {1}, 2, at("/chain", 0));
  expect_refusal(1, Reason::kManifest, "field 'chain': found");
  delta(1, {1}, 2, at("/base", version(1)));
  expect_refusal(1, Reason::kManifest, "field 'chain': found 1; expected 2");
  delta(1, {1}, 2, at("/abi_hash", std::string(64, 'b')));
  expect_refusal(1, Reason::kAbi, "field 'abi_hash': found bbbb", "which it is built on");
  delta(1, {1}, 2, at("/dim", 3));
  expect_refusal(1, Reason::kAbi, "field 'dim': found 3; expected 2");
  delta(1, {1}, 2, at("/template/name", "other"));
  expect_refusal(1, Reason::kAbi, "field 'template.name': found other; expected ranking");
  delta(1, {1}, 2, at("/format", 1));
  expect_refusal(1, Reason::kManifest, "field 'base'", "deltas have format 2");
  delta(1, {1}, 2, at("/format", 3));
  expect_refusal(1, Reason::kManifest, "field 'format'");
}

TEST_F(SnapshotDeltasTest, RefusesADeltaWhoseBaseVanished) {
  whole(0);
  delta(1, {1}, 2);
  delta(2, {2}, 3);
  std::filesystem::remove_all(registry_.version_dir("income", version(0)));
  expect_refusal(2, Reason::kManifest, version(0) + "/manifest.json: no such file",
                 "(version " + version(1) + " is built on it)");
  whole(0);
  std::filesystem::remove(registry_.version_dir("income", version(1)) / "delta.safetensors");
  expect_refusal(2, Reason::kManifest, version(1) + "/delta.safetensors: no such file");
}

// Every byte of every file of the chain, one at a time: refused, and nothing but Refused.
TEST_F(SnapshotDeltasTest, RefusesEveryDamagedByte) {
  whole(0);
  delta(1, {1}, 2);
  delta(2, {2}, 3);
  for (int number : {0, 1, 2}) {
    for (const auto& entry : std::filesystem::directory_iterator(registry_.version_dir("income", version(number)))) {
      std::string content = read_file(entry.path());
      for (size_t at = 0; at < content.size(); at += 7) {
        std::string damaged = content;
        damaged[at] = static_cast<char>(damaged[at] ^ 0x21);
        write_file(entry.path(), damaged);
        Refusal found = refused_by([&] { load(2); });
        EXPECT_EQ(found.reason, Reason::kChecksum) << entry.path() << " byte " << at << ": " << found.message;
        EXPECT_TRUE(found.refused) << entry.path() << " byte " << at;
      }
      write_file(entry.path(), content);
    }
  }
  EXPECT_NE(load(2), nullptr);
}

}  // namespace
}  // namespace smt::server
