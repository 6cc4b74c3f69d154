#include "safetensors.h"

#include <gtest/gtest.h>

#include <random>

#include "refused_by.h"
#include "registry_builder.h"

namespace smt::server {
namespace {

SafetensorsHeader parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)), file.size(), "w");
}

std::string one(const std::string& tensor, size_t data_bytes = 8) {
  return with_prefix("{\"slab\":" + tensor + "}", std::string(data_bytes, '\0'));
}

TEST(Safetensors, ReadsTensorsInOrderOfTheirData) {
  std::string file = safetensors({{"slab", {3}, {1, 2, 3}}, {"table", {2, 2}, {4, 5, 6, 7}}});
  SafetensorsHeader header = parse(file);
  ASSERT_EQ(header.tensors.size(), 2U);
  EXPECT_EQ(header.tensors[0].name, "slab");
  EXPECT_EQ(header.tensors[0].dtype, "F32");
  EXPECT_EQ(header.tensors[0].shape, std::vector<int64_t>{3});
  EXPECT_EQ(header.tensors[1].begin, 12U);
  EXPECT_EQ(header.tensors[1].end, 28U);
  EXPECT_EQ(header.data_start, file.size() - 28);
}

TEST(Safetensors, AcceptsMetadataPaddingAndEmptyTensors) {
  std::string file =
      with_prefix(R"({"__metadata__":{"format":"pt"},"e":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]},)"
                  R"("s":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}      )",
                  std::string(8, '\0'));
  EXPECT_EQ(parse(file).tensors.size(), 2U);
}

TEST(Safetensors, RefusesEveryTruncation) {
  std::string file = safetensors({{"slab", {3}, {1, 2, 3}}, {"table", {2, 2}, {4, 5, 6, 7}}});
  for (size_t length = 0; length < file.size(); ++length) {
    Refusal found = refused_by([&] { parse(file.substr(0, length)); });
    EXPECT_TRUE(found.refused) << "a file cut to " << length << " bytes was accepted";
    EXPECT_EQ(found.reason, Reason::kWeights) << found.message;
  }
}

TEST(Safetensors, SurvivesEveryFlippedHeaderByte) {
  std::string file = safetensors({{"slab", {3}, {1, 2, 3}}, {"table", {2, 2}, {4, 5, 6, 7}}});
  size_t header = parse(file).data_start;
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    std::string damaged = file;
    for (int i = 0; i < 1 + round % 3; ++i) damaged[random() % header] = static_cast<char>(random());
    try {
      SafetensorsHeader parsed = parse(damaged);
      for (const TensorInfo& tensor : parsed.tensors) {
        ASSERT_LE(tensor.begin, tensor.end);
        ASSERT_LE(parsed.data_start + tensor.end, damaged.size());
      }
    } catch (const Refused&) {
    }
  }
}

TEST(Safetensors, RefusesHeaderLengthsBeyondTheFile) {
  for (uint64_t length : {uint64_t{0}, uint64_t{1}, uint64_t{1000}, uint64_t{1} << 40, UINT64_MAX - 7, UINT64_MAX}) {
    std::string file(64, ' ');
    for (int i = 0; i < 8; ++i) file[static_cast<size_t>(i)] = static_cast<char>(length >> (8 * i) & 0xff);
    expect_refused(
        Reason::kWeights, [&] { parse(file); }, "header's length is " + std::to_string(length), "2..56");
  }
}

TEST(Safetensors, RefusesWrongFieldsByName) {
  struct Case {
    std::string tensor;
    std::string message;
  };
  const Case kCases[] = {
      {R"(5)", "field 'slab': found 5; expected an object"},
      {R"({"shape":[2],"data_offsets":[0,8]})", "field 'slab.dtype': missing"},
      {R"({"dtype":"F99","shape":[2],"data_offsets":[0,8]})", "field 'slab.dtype': found the string 'F99'"},
      {R"({"dtype":"F32","data_offsets":[0,8]})", "field 'slab.shape': missing"},
      {R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})", "field 'slab.shape': found 2"},
      {R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})", "field 'slab.shape[0]': found -2"},
      {R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})", "field 'slab.shape[0]': found 2.0"},
      {R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]})", "field 'slab.shape[0]'"},
      {R"({"dtype":"F32","shape":[281474976710656,281474976710656],"data_offsets":[0,8]})", "fewer than 2^64 bytes"},
      {R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]})",
       "field 'slab.shape': found an array of 9"},
      {R"({"dtype":"F32","shape":[2]})", "field 'slab.data_offsets': missing"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0]})", "field 'slab.data_offsets'"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", "begin <= end <= 8"},
      {R"({"dtype":"F32","shape":[3],"data_offsets":[0,12]})", "begin <= end <= 8"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,8]})", "4 bytes, as dtype and shape say (found 8)"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})", "begins at data byte 4; expected 0"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})", "tensors hold 4 bytes; expected 8"},
  };
  for (const Case& test : kCases) {
    expect_refused(
        Reason::kWeights, [&] { parse(one(test.tensor)); }, test.message);
  }
}

TEST(Safetensors, RefusesOverlapsAndRepeatedNames) {
  std::string tensor = R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  std::string overlap = with_prefix("{\"a\":" + tensor + ",\"b\":" + tensor + "}", std::string(8, '\0'));
  expect_refused(
      Reason::kWeights, [&] { parse(overlap); }, "'b' begins at data byte 0; expected 8");
  std::string twice = with_prefix("{\"a\":" + tensor + ",\"a\":" + tensor + "}", std::string(8, '\0'));
  expect_refused(
      Reason::kWeights, [&] { parse(twice); }, "key 'a' appears twice");
}

TEST(Safetensors, RefusesDeepNestingAndJsonThatIsNone) {
  std::string deep = std::string(100000, '[') + std::string(100000, ']');
  expect_refused(
      Reason::kWeights, [&] { parse(with_prefix(deep, "")); }, "nested deeper than 64");
  expect_refused(
      Reason::kWeights, [&] { parse(with_prefix("[1]", "")); }, "expected an object");
  expect_refused(
      Reason::kWeights, [&] { parse(with_prefix("{\"a\":1e999}", "")); }, "not valid JSON");
  expect_refused(
      Reason::kWeights, [&] { parse(with_prefix("{\"\xff\":1}", "")); }, "not valid JSON");
}

}  // namespace
}  // namespace smt::server
