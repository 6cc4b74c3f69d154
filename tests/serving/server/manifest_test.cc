#include "manifest.h"

#include <gtest/gtest.h>

#include <random>

#include "refused_by.h"
#include "registry_builder.h"

namespace smt::server {
namespace {

constexpr const char* kVersion = "20260101-000000-000-00000000";

Json snapshot() { return snapshot_manifest("income", kVersion, weights()); }

SnapshotManifest parse_snapshot(const Json& json) { return parse_snapshot_manifest(json.dump(), "m"); }
void parse_binary(const Json& json) { parse_binary_manifest(json.dump(), "m"); }

TEST(SnapshotManifest, ReadsWhatThePublisherWrites) {
  SnapshotManifest found = parse_snapshot_manifest(snapshot().dump(), "m");
  EXPECT_EQ(found.scenario, "income");
  EXPECT_EQ(found.version, kVersion);
  EXPECT_EQ(found.source.name, "ranking");
  EXPECT_EQ(found.abi_hash, kAbi);
  ASSERT_EQ(found.tasks.size(), 2U);
  EXPECT_EQ(found.tasks[1].name, "like");
  EXPECT_EQ(found.tasks[1].head, 1);
  EXPECT_EQ(found.weights.bytes, weights().size());
  EXPECT_EQ(Json::parse(found.features_json), features());
  EXPECT_DOUBLE_EQ(found.created, 1767323045.25);
}

TEST(SnapshotManifest, EveryFieldIsCheckedByName) {
  for (const char* key :
       {"format", "scenario", "version", "template", "abi_hash", "dim", "tasks", "features", "files"}) {
    Json without = snapshot();
    without.erase(key);
    expect_refused(
        Reason::kManifest, [&] { parse_snapshot(without); }, std::string("field '") + key + "': missing");
    for (const Json& wrong :
         {Json(nullptr), Json(-1), Json(1.5), Json("\x01 /.."), Json(UINT64_MAX), Json::array({1})}) {
      Json changed = snapshot();
      changed[key] = wrong;
      expect_refused(
          Reason::kManifest, [&] { parse_snapshot(changed); }, std::string("field '") + key);
    }
  }
}

TEST(SnapshotManifest, NestedFieldsAreCheckedByName) {
  struct Case {
    const char* pointer;
    Json value;
    const char* message;
  };
  const Case kCases[] = {
      {"/format", 3, "field 'format': found 3; expected an integer 1..2"},
      {"/format", 2, "field 'base': missing; expected a version"},
      {"/base", "v1", "field 'base': found the string 'v1'; expected none in format 1; deltas have format 2"},
      {"/template/name", "../up", "field 'template.name'"},
      {"/template/version", "", "field 'template.version'"},
      {"/abi_hash", "../../etc", "field 'abi_hash'"},
      {"/version", "../../etc", "field 'version'"},
      {"/tasks", Json::array(), "field 'tasks': found an array of 0; expected at least one task"},
      {"/tasks/0", 5, "field 'tasks[0]': found 5; expected an object"},
      {"/tasks/1/head", -1, "field 'tasks[1].head': found -1"},
      {"/tasks/1/name", "click",
       "field 'tasks[1].name': found the string 'click'; expected a name that no other task has"},
      {"/tasks/1/name", "", "field 'tasks[1].name'"},
      {"/tasks/1/head", 0, "field 'tasks[1].head': found 0; expected a head that no other task has"},
      {"/files/weights.safetensors", 1, "field 'files.weights.safetensors'"},
      {"/files/weights.safetensors/bytes", 0, "field 'files.weights.safetensors.bytes'"},
      {"/files/weights.safetensors/bytes", UINT64_MAX, "field 'files.weights.safetensors.bytes'"},
      {"/files/weights.safetensors/sha256", "ABC", "field 'files.weights.safetensors.sha256'"},
      {"/files/weights.safetensors/xxh3", "ABC", "field 'files.weights.safetensors.xxh3': found the string 'ABC'"},
      {"/files/weights.safetensors/xxh3", nullptr, "field 'files.weights.safetensors.xxh3': found null"},
      {"/lineage", 5, "field 'lineage'"},
  };
  for (const Case& test : kCases) {
    Json changed = snapshot();
    changed[Json::json_pointer(test.pointer)] = test.value;
    expect_refused(
        Reason::kManifest, [&] { parse_snapshot(changed); }, test.message);
  }
}

TEST(SnapshotManifest, ReadsADelta) {
  EXPECT_TRUE(parse_snapshot(snapshot()).base.empty());
  EXPECT_EQ(parse_snapshot(snapshot()).chain, 0);
  Json delta = snapshot();
  delta["format"] = 2;
  delta["base"] = "20260101-000000-000-00000000";
  delta["chain"] = 3;
  expect_refused(
      Reason::kManifest, [&] { parse_snapshot(delta); }, "field 'files.delta.safetensors': missing");
  delta["files"]["delta.safetensors"] = delta["files"]["weights.safetensors"];
  SnapshotManifest found = parse_snapshot(delta);
  EXPECT_EQ(found.base, "20260101-000000-000-00000000");
  EXPECT_EQ(found.chain, 3);
  EXPECT_EQ(found.weights.name, "delta.safetensors");
  for (const Json& wrong : {Json(0), Json(-1), Json(kMaxChain + 1), Json("1"), Json(nullptr)}) {
    delta["chain"] = wrong;
    expect_refused(
        Reason::kManifest, [&] { parse_snapshot(delta); }, "field 'chain': found", "expected an integer 1..64");
  }
}

TEST(SnapshotManifest, SurvivesDamage) {
  std::string text = snapshot().dump();
  for (size_t length = 0; length < text.size(); ++length) {
    EXPECT_TRUE(refused_by([&] { parse_snapshot_manifest(text.substr(0, length), "m"); }).refused) << length;
  }
  std::mt19937 random(11);
  for (int round = 0; round < 5000; ++round) {
    std::string damaged = text;
    for (int i = 0; i < 1 + round % 4; ++i) damaged[random() % text.size()] = static_cast<char>(random());
    refused_by([&] { parse_snapshot_manifest(damaged, "m"); });  // anything but Refused fails the test
  }
}

TEST(BinaryManifest, ReadsWhatTheCompilerWrites) {
  BinaryManifest found = parse_binary_manifest(binary_manifest().dump(), "m");
  EXPECT_EQ(found.slab_elements, kSlab);
  EXPECT_EQ(found.kernel_abi, 1);
  EXPECT_EQ(found.precision, "bf16");
  EXPECT_EQ(found.program, kProgram);
  EXPECT_EQ(found.packed_bytes, kPacked);
  EXPECT_EQ(found.dim, kDim);
  EXPECT_EQ(found.tasks, 2);
  EXPECT_EQ(found.isa, "scalar");
  EXPECT_EQ(found.model.sha256, sha256_hex("compiled"));
}

TEST(BinaryManifest, KindsHaveTheirOwnInputs) {
  EXPECT_EQ(parse_binary_manifest(binary_manifest().dump(), "m").kind, BinaryKind::kFused);
  EXPECT_EQ(parse_binary_manifest(views_manifest().dump(), "m").kind, BinaryKind::kViews);
  Json changed = views_manifest();
  changed["kind"] = "fused";
  expect_refused(
      Reason::kManifest, [&] { parse_binary(changed); }, "field 'inputs': found an array of 6; expected an array of 8");
  changed["kind"] = "graph";
  expect_refused(
      Reason::kManifest, [&] { parse_binary(changed); }, "field 'kind': found the string 'graph'; expected 'fused' or");
  changed = views_manifest();
  changed["inputs"][0]["shape"][0] = kSlab + 1;
  expect_refused(
      Reason::kManifest, [&] { parse_binary(changed); }, "field 'inputs[0].shape[0]': found 33; expected 32");
}

TEST(BinaryManifest, EveryFieldIsCheckedByName) {
  for (const char* key : {"format", "template", "abi_hash", "target", "isa", "torch", "kernel_version", "kernel_abi",
                          "precision", "program", "packed_bytes", "slab_elements", "dim", "tasks", "dense_slots",
                          "categorical_slots", "inputs", "outputs", "files"}) {
    Json without = binary_manifest();
    without.erase(key);
    expect_refused(
        Reason::kManifest, [&] { parse_binary(without); }, std::string("field '") + key + "': missing");
  }
}

TEST(BinaryManifest, InputsMustBeTheOnesThatTheServerPasses) {
  struct Case {
    const char* pointer;
    Json value;
    const char* message;
  };
  const Case kCases[] = {
      {"/format", 1, "field 'format': found 1; expected 2, which holds packed weights: compile the template again"},
      {"/format", 3, "field 'format': found 3; expected an integer 1..2"},
      {"/kernel_abi", 0, "field 'kernel_abi': found 0; expected an integer 1.."},
      {"/precision", "fp8", "field 'precision': found the string 'fp8'; expected 'fp32', 'bf16' or 'int8'"},
      {"/program", "cross", "field 'program': found the string 'cross'; expected an array"},
      {"/program/2", 1.5, "field 'program[2]': found 1.5; expected an integer"},
      {"/program/3", UINT64_MAX, "field 'program[3]': found 18446744073709551615; expected an integer"},
      {"/packed_bytes", 0, "field 'packed_bytes': found 0"},
      {"/inputs/0/name", "slab", "field 'inputs[0].name': found the string 'slab'; expected 'arena'"},
      {"/inputs/0/dtype", "float32", "field 'inputs[0].dtype': found the string 'float32'; expected 'uint8'"},
      {"/inputs/1/dtype", "int64", "field 'inputs[1].dtype': found the string 'int64'; expected 'int32'"},
      {"/inputs/5/dtype", "int32", "field 'inputs[5].dtype': found the string 'int32'; expected 'int64'"},
      {"/inputs/0/shape", Json::array({"slots", 9}), "field 'inputs[0].shape[1]': found 9; expected 1472"},
      {"/inputs/2/shape", Json::array({10, 2}), "field 'inputs[2].shape[0]': found 10; expected the name of a dynamic"},
      {"/inputs/4/shape", Json::array({"rows", 4}), "field 'inputs[4].shape[1]': found 4; expected 3"},
      {"/inputs/7/shape", Json::array({"rows"}), "field 'inputs[7].shape': found an array of 1; expected 2 dimensions"},
      {"/inputs", Json::array(), "field 'inputs': found an array of 0; expected an array of 8"},
      {"/outputs/0/shape", Json::array({"rows", 3}), "field 'outputs[0].shape[1]': found 3; expected 2"},
      {"/slab_elements", int64_t{1} << 62, "field 'slab_elements'"},
      {"/dim", 0, "field 'dim': found 0"},
      {"/files/model.pt2/bytes", "many", "field 'files.model.pt2.bytes'"},
  };
  for (const Case& test : kCases) {
    Json changed = binary_manifest();
    changed[Json::json_pointer(test.pointer)] = test.value;
    expect_refused(
        Reason::kManifest, [&] { parse_binary(changed); }, test.message);
  }
}

TEST(ParseTime, KnowsZonesAndFractions) {
  EXPECT_DOUBLE_EQ(parse_time("1970-01-01T00:00:01Z"), 1);
  EXPECT_DOUBLE_EQ(parse_time("2026-01-02T03:04:05.250+00:00"), 1767323045.25);
  EXPECT_DOUBLE_EQ(parse_time("2026-01-02T05:04:05+02:00"), 1767323045);
  for (const char* bad : {"", "yesterday", "2026-01-02", "2026-01-02T03:04:05 noon"})
    EXPECT_EQ(parse_time(bad), 0) << bad;
}

}  // namespace
}  // namespace smt::server
