#include "infer_columns.h"

#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <random>

#include "infer_request.h"
#include "text.h"

namespace smt::server {
namespace {

using inference::ModelInferRequest;
using transform::Column;

constexpr int64_t kMaxRows = 100;

std::vector<std::string> shown(const Column& column) {
  return std::visit(
      [](const auto& values) {
        std::vector<std::string> out;
        for (const auto& value : values) {
          if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string_view>) {
            out.emplace_back(value);
          } else {
            out.push_back(std::to_string(value));
          }
        }
        return out;
      },
      column.values);
}

class InferColumnsTest : public testing::Test {
 protected:
  InferColumns view(std::optional<int64_t> rows = {}) { return view_inputs(request_, rows, kMaxRows, arena_); }

  std::string refused(std::optional<int64_t> rows = {}) {
    try {
      view(rows);
    } catch (const transform::InputError& error) {
      return error.what();
    }
    return "";
  }

  google::protobuf::Arena arena_;
  ModelInferRequest request_;
};

template <class T>
std::vector<std::string> through(const std::string& datatype, const std::vector<T>& values, bool raw) {
  google::protobuf::Arena arena;
  ModelInferRequest request;
  const std::vector<int64_t> shape{static_cast<int64_t>(values.size())};
  if (raw) {
    add_raw(request, "x", datatype, shape, raw_values<T>(values));
  } else {
    add_typed(request, "x", datatype, shape, values);
  }
  InferColumns columns = view_inputs(request, {}, kMaxRows, arena);
  EXPECT_EQ(columns.rows, shape[0]);
  EXPECT_EQ(columns.candidates.size(), 1U);
  return shown(columns.candidates.at(0));
}

template <class T>
void both_ways(const std::string& datatype, const std::vector<T>& values, const std::vector<std::string>& expected) {
  EXPECT_EQ(through(datatype, values, true), expected) << datatype << ", raw";
  EXPECT_EQ(through(datatype, values, false), expected) << datatype << ", typed";
}

TEST_F(InferColumnsTest, EveryDatatypeRawAndTyped) {
  using Limits64 = std::numeric_limits<int64_t>;
  const std::string least = std::to_string(Limits64::min());
  const std::string most = std::to_string(Limits64::max());
  both_ways<float>("FP32", {1.5F, -2}, {"1.500000", "-2.000000"});
  both_ways<double>("FP64", {1e10, -0.5}, {"10000000000.000000", "-0.500000"});
  both_ways<int64_t>("INT64", {Limits64::min(), 7, Limits64::max()}, {least, "7", most});
  both_ways<int32_t>("INT32", {INT32_MIN, 7, INT32_MAX}, {"-2147483648", "7", "2147483647"});
  both_ways<int16_t>("INT16", {INT16_MIN, 7, INT16_MAX}, {"-32768", "7", "32767"});
  both_ways<int8_t>("INT8", {INT8_MIN, 7, INT8_MAX}, {"-128", "7", "127"});
  both_ways<uint64_t>("UINT64", {0, static_cast<uint64_t>(Limits64::max())}, {"0", most});
  both_ways<uint32_t>("UINT32", {0, UINT32_MAX}, {"0", "4294967295"});
  both_ways<uint16_t>("UINT16", {0, UINT16_MAX}, {"0", "65535"});
  both_ways<uint8_t>("UINT8", {0, UINT8_MAX}, {"0", "255"});
  both_ways<bool>("BOOL", {true, false}, {"1", "0"});
  both_ways<std::string>("BYTES", {"", "Wien", "S\xc3\xa3o", std::string("a\0b", 3)},
                         {"", "Wien", "S\xc3\xa3o", std::string("a\0b", 3)});
}

TEST_F(InferColumnsTest, WideValuesAndTextStayWhereTheyAre) {
  add_raw(request_, "f", "FP32", {3}, raw_values<float>({1, 2, 3}));
  add_raw(request_, "d", "FP64", {3}, raw_values<double>({1, 2, 3}));
  add_raw(request_, "i", "INT64", {3}, raw_values<int64_t>({1, 2, 3}));
  add_raw(request_, "s", "BYTES", {3}, raw_values<std::string>({"a", "b", "c"}));
  InferColumns columns = view();
  auto raw = [&](int i) { return static_cast<const void*>(request_.raw_input_contents(i).data()); };
  EXPECT_EQ(std::get<transform::FloatValues>(columns.candidates[0].values).data(), raw(0));
  EXPECT_EQ(std::get<transform::DoubleValues>(columns.candidates[1].values).data(), raw(1));
  EXPECT_EQ(std::get<transform::IntValues>(columns.candidates[2].values).data(), raw(2));
  EXPECT_EQ(std::get<transform::StringValues>(columns.candidates[3].values)[2].data(),
            request_.raw_input_contents(3).data() + 14);
}

TEST_F(InferColumnsTest, ShapesAreRowsAndValuesPerRow) {
  add_raw(request_, "one", "INT32", {2}, raw_values<int32_t>({1, 2}));
  add_raw(request_, "column", "INT32", {2, 1}, raw_values<int32_t>({3, 4}));
  add_raw(request_, "three", "INT32", {2, 3}, raw_values<int32_t>({1, 2, 3, 4, 5, 6}));
  add_raw(request_, "none", "BYTES", {2, 0}, "");
  add_raw(request_, "shared", "FP32", {1, 2}, raw_values<float>({1, 2}));
  InferColumns columns = view();
  EXPECT_EQ(columns.rows, 2);
  ASSERT_EQ(columns.candidates.size(), 4U);
  EXPECT_TRUE(columns.candidates[0].lengths.empty());
  EXPECT_TRUE(columns.candidates[1].lengths.empty());
  EXPECT_EQ(std::vector(columns.candidates[2].lengths.begin(), columns.candidates[2].lengths.end()),
            (std::vector<int32_t>{3, 3}));
  EXPECT_EQ(std::vector(columns.candidates[3].lengths.begin(), columns.candidates[3].lengths.end()),
            (std::vector<int32_t>{0, 0}));
  ASSERT_EQ(columns.context.size(), 1U);
  EXPECT_EQ(columns.context[0].name, "shared");
  EXPECT_EQ(std::vector(columns.context[0].lengths.begin(), columns.context[0].lengths.end()),
            (std::vector<int32_t>{2}));
}

TEST_F(InferColumnsTest, LengthsMakeListsOfAnyLength) {
  add_raw(request_, "tags.lengths", "INT32", {3}, raw_values<int32_t>({2, 0, 1}));
  add_raw(request_, "tags", "BYTES", {3}, raw_values<std::string>({"a", "b", "c"}));
  add_raw(request_, "city", "BYTES", {3}, raw_values<std::string>({"x", "y", "z"}));
  add_raw(request_, "seen", "INT64", {4}, raw_values<int64_t>({1, 2, 3, 4}));
  add_raw(request_, "seen.lengths", "INT32", {1}, raw_values<int32_t>({4}));
  add_raw(request_, "loose.lengths", "INT32", {3}, raw_values<int32_t>({7, 8, 9}));
  InferColumns columns = view();
  EXPECT_EQ(columns.rows, 3);
  ASSERT_EQ(columns.candidates.size(), 3U);
  EXPECT_EQ(columns.candidates[0].name, "tags");
  EXPECT_EQ(std::vector(columns.candidates[0].lengths.begin(), columns.candidates[0].lengths.end()),
            (std::vector<int32_t>{2, 0, 1}));
  EXPECT_EQ(columns.candidates[2].name, "loose.lengths") << "a tensor of its own: there is no input of that stem";
  ASSERT_EQ(columns.context.size(), 1U);
  EXPECT_EQ(columns.context[0].name, "seen");
  EXPECT_EQ(columns.context[0].lengths[0], 4);
}

TEST_F(InferColumnsTest, TypedLengths) {
  add_typed<std::string>(request_, "tags", "BYTES", {2}, {"a", "b"});
  add_typed<int32_t>(request_, "tags.lengths", "INT32", {3}, {0, 2, 0});
  InferColumns columns = view();
  EXPECT_EQ(columns.rows, 3);
  EXPECT_EQ(columns.candidates.at(0).lengths[1], 2);
}

TEST_F(InferColumnsTest, RowsAreStatedWhereEverythingIsContext) {
  add_raw(request_, "user", "INT64", {1}, raw_values<int64_t>({7}));
  EXPECT_EQ(view().candidates.size(), 1U) << "of a request of one row";
  InferColumns columns = view(50);
  EXPECT_EQ(columns.rows, 50);
  EXPECT_TRUE(columns.candidates.empty());
  EXPECT_EQ(columns.context.at(0).name, "user");
  EXPECT_EQ(refused(0), "parameter 'rows': 0 rows; expected 1..100");
  EXPECT_EQ(refused(-5), "parameter 'rows': -5 rows; expected 1..100");
  EXPECT_EQ(refused(101), "parameter 'rows': 101 rows; expected 1..100");
  request_.Clear();
  EXPECT_EQ(view(3).rows, 3);
  EXPECT_EQ(refused(), "inputs: none; expected those of the model, or the parameter 'rows' (int64)");
}

TEST_F(InferColumnsTest, RowsOfInputsAgree) {
  add_raw(request_, "age", "FP32", {3}, raw_values<float>({1, 2, 3}));
  add_raw(request_, "user", "INT64", {2}, raw_values<int64_t>({7, 8}));
  EXPECT_EQ(refused(), "inputs[1] 'user': 2 rows; expected 3, as inputs[0] 'age' has, or 1 (a context feature)");
  EXPECT_EQ(refused(2), "inputs[0] 'age': 3 rows; expected 2, as the parameter 'rows' says, or 1 (a context feature)");
  add_raw(request_, "tags", "INT64", {0}, "");
  add_raw(request_, "tags.lengths", "INT32", {4}, raw_values<int32_t>({0, 0, 0, 0}));
  EXPECT_EQ(refused(),
            "inputs[0] 'age': 3 rows; expected 4, as inputs[3] 'tags.lengths' has, or 1 (a context feature)");
}

struct Mistake {
  std::function<void(ModelInferRequest&)> make;
  std::string message;
};

// Each is added to a request with the good input 'age' of 2 rows.
void refuses(const std::vector<Mistake>& mistakes) {
  for (const Mistake& mistake : mistakes) {
    google::protobuf::Arena arena;
    ModelInferRequest request;
    add_raw(request, "age", "FP32", {2}, raw_values<float>({1, 2}));
    mistake.make(request);
    try {
      view_inputs(request, {}, kMaxRows, arena);
      ADD_FAILURE() << "taken, though: " << mistake.message;
    } catch (const transform::InputError& error) {
      EXPECT_EQ(std::string(error.what()).find(mistake.message), 0U)
          << error.what() << "\nexpected " << mistake.message;
    }
  }
}

Mistake raw(std::string datatype, std::vector<int64_t> shape, std::string bytes, std::string message) {
  return {[=](ModelInferRequest& request) { add_raw(request, "city", datatype, shape, bytes); },
          "inputs[1] 'city': " + message};
}

TEST(InferColumns, RefusesShapesThatTheBytesAreNotOf) {
  constexpr int64_t kHuge = int64_t{1} << 62;
  const std::string eight(8, '\0');
  refuses({
      raw("INT64", {2}, eight,
          "raw_input_contents[1] holds 8 bytes; expected 2 values of 8 bytes, as datatype INT64 and shape [2] say"),
      raw("FP32", {1}, eight, "raw_input_contents[1] holds 8 bytes; expected 1 values of 4 bytes"),
      raw("FP32", {2}, "1234567", "raw_input_contents[1] holds 7 bytes; expected 2 values of 4 bytes"),
      raw("FP32", {0}, eight, "raw_input_contents[1] holds 8 bytes; expected 0 values of 4 bytes"),
      raw("FP32", {0}, "", "0 rows; expected 2, as inputs[0] 'age' has"),
      raw("FP32", {-2}, eight, "shape [-2]; expected [rows] or [rows, values per row], none of them negative"),
      raw("FP32", {-1, -2}, eight, "shape [-1, -2]; expected"),
      raw("FP32", {}, eight, "shape []; expected"),
      raw("FP32", {2, 1, 1}, eight, "shape [2, 1, 1]; expected"),
      raw("FP32", {1, 1, 1, 1, 2}, eight, "shape [1, 1, 1, 1, ...]; expected"),
      raw("FP32", {kHuge, 4}, eight, "shape [4611686018427387904, 4]; expected"),
      raw("FP32", {kHuge, kHuge}, "", "shape [4611686018427387904, 4611686018427387904]; expected"),
      // The product of these wraps to 2 values, and 8 bytes.
      raw("FP32", {kHuge + 1, 2}, eight, "shape [4611686018427387905, 2]; expected"),
      raw("FP32", {kHuge}, "", "raw_input_contents[1] holds 0 bytes; expected 4611686018427387904 values of 4 bytes"),
      raw("FP64", {kHuge + 1}, eight, "raw_input_contents[1] holds 8 bytes; expected 4611686018427387905 values"),
      raw("BYTES", {kHuge + 1}, eight, "raw_input_contents[1] holds 8 bytes; expected at least 4611686018427387905"),
      raw("BYTES", {3}, eight, "raw_input_contents[1] holds 8 bytes; expected at least 3 values of 4 bytes"),
      raw("FP32", {kHuge, 0}, "", "4611686018427387904 rows; expected 1..100"),
      raw("FP32", {0, kHuge}, "", "0 rows; expected 2"),
      raw("FP32", {101}, std::string(404, '\0'), "101 rows; expected 1..100"),
  });
}

TEST(InferColumns, RefusesTextThatItsLengthsAreNotOf) {
  auto bytes = [](std::initializer_list<uint8_t> list) { return std::string(list.begin(), list.end()); };
  refuses({
      raw("BYTES", {2}, bytes({1, 0, 0, 0, 'a', 9, 0, 0, 0}),
          "value 1 of 2 runs past the end of 9 bytes; expected each value's length as 4 bytes, then the value"),
      raw("BYTES", {2}, bytes({0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}), "value 1 of 2 runs past the end of 8 bytes"),
      raw("BYTES", {2}, bytes({2, 0, 0, 0, 'a', 'b', 0, 0}), "value 1 of 2 runs past the end of 8 bytes"),
      raw("BYTES", {2}, bytes({0, 0, 0, 0, 0, 0, 0, 0, 0}),
          "1 bytes after the last of 2 values; expected none, as shape [2] says"),
      raw("BYTES", {2}, bytes({0, 0, 0, 0, 2, 0, 0, 0, 0xc3, 0x28}), "value 1 is '\\xc3('; expected UTF-8"),
  });
}

TEST(InferColumns, RefusesValuesThatTheirDatatypeDoesNotHave) {
  const uint64_t big = uint64_t{1} << 63;
  auto typed = [](auto value, const std::string& datatype, const std::string& message) {
    return Mistake{[=](ModelInferRequest& request) {
                     request.clear_inputs();
                     request.clear_raw_input_contents();
                     add_typed<decltype(value)>(request, "city", datatype, {2}, {decltype(value){0}, value});
                   },
                   "inputs[0] 'city': " + message};
  };
  refuses({
      raw("UINT64", {2}, raw_values<uint64_t>({0, big}),
          "value 1 is 9223372036854775808; expected 0..9223372036854775807"),
      raw("BOOL", {2}, "\x01\x02", "value 1 is 2; expected 0 or 1, as datatype BOOL says"),
      typed(int32_t{128}, "INT8", "value 1 is 128; expected -128..127"),
      typed(int32_t{-40000}, "INT16", "value 1 is -40000; expected -32768..32767"),
      typed(uint32_t{256}, "UINT8", "value 1 is 256; expected 0..255"),
      typed(uint32_t{70000}, "UINT16", "value 1 is 70000; expected 0..65535"),
      typed(big, "UINT64", "value 1 is 9223372036854775808; expected 0..9223372036854775807"),
      raw("FP16", {2}, "1234", "datatype 'FP16'; expected one of FP32, FP64, INT64, BYTES, INT32, "),
      raw("fp32", {2}, "12345678", "datatype 'fp32'; expected one of FP32"),
      raw("", {2}, "12345678", "datatype ''; expected one of FP32"),
  });
}

TEST(InferColumns, RefusesContentsElsewhere) {
  refuses({
      {[](ModelInferRequest& r) { r.add_raw_input_contents("1234"); },
       "raw_input_contents: 2 entries; expected 1, one per input, or none (then every input's values are in its "
       "contents)"},
      {[](ModelInferRequest& r) {
         add_typed<float>(r, "city", "FP32", {2}, {1, 2});
       },
       "raw_input_contents: 1 entries; expected 2"},
      {[](ModelInferRequest& r) { r.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1); },
       "inputs[0] 'age': has contents though raw_input_contents are sent"},
      {[](ModelInferRequest& r) { r.clear_raw_input_contents(); },
       "inputs[0] 'age': contents.fp32_contents holds 0 values; expected 2, as shape [2] says"},
      {[](ModelInferRequest& r) {
         r.clear_raw_input_contents();
         r.mutable_inputs(0)->mutable_contents()->add_int64_contents(1);
       },
       "inputs[0] 'age': values in contents.int64_contents; expected those of FP32 in contents.fp32_contents"},
  });
}

Mistake tensors(std::vector<std::string> names, std::vector<int64_t> shape, std::string datatype, std::string message) {
  return {[=](ModelInferRequest& request) {
            for (const std::string& name : names) add_raw(request, name, datatype, shape, std::string(8, '\0'));
          },
          message};
}

TEST(InferColumns, RefusesTensorsThatDoNotGoTogether) {
  refuses({
      tensors({"age"}, {2}, "FP32", "inputs[1] 'age': sent twice; expected once"),
      tensors({"age.lengths", "age.lengths"}, {2}, "INT32", "inputs[2] 'age.lengths': sent twice; expected once"),
      tensors({"age.lengths"}, {2}, "FP32", "inputs[1] 'age.lengths': datatype 'FP32'; expected INT32, of lengths"),
      tensors({"age.lengths"}, {2, 1}, "INT32", "inputs[1] 'age.lengths': two dimensions; expected shape [rows]"),
      tensors({"x", "x.lengths"}, {1, 2}, "INT32",
              "inputs[1] 'x': two dimensions though inputs[2] 'x.lengths' is sent; expected shape [values]"),
      tensors({"age.lengths.lengths", "age.lengths"}, {2}, "INT32",
              "inputs[1] 'age.lengths.lengths': holds the lengths of lengths; expected those of an input"),
  });
}

// A few bytes of shape must not become megabytes of lengths.
TEST_F(InferColumnsTest, EmptyListsTakeNoMemoryOfTheirOwn) {
  for (int i = 0; i < 4000; ++i) add_raw(request_, "x" + std::to_string(i), "INT64", {kMaxRows, 0}, "");
  EXPECT_EQ(view().candidates.size(), 4000U);
  EXPECT_LT(arena_.SpaceUsed(), 10U * kMaxRows);
}

// Whatever the bytes: columns that lie inside the request, or an error in UTF-8, and memory of the order of the
// message.
TEST(InferColumns, DamagedRequestsAreRefusedOrWithinTheirBounds) {
  std::mt19937 random(20240611);
  ModelInferRequest raw_request;
  add_raw(raw_request, "age", "FP32", {4}, raw_values<float>({1, 2, 3, 4}));
  add_raw(raw_request, "city", "BYTES", {4}, raw_values<std::string>({"a", "bc", "", "d"}));
  add_raw(raw_request, "tags", "BYTES", {3}, raw_values<std::string>({"x", "y", "z"}));
  add_raw(raw_request, "tags.lengths", "INT32", {4}, raw_values<int32_t>({1, 0, 2, 0}));
  add_raw(raw_request, "user", "INT16", {1, 2}, raw_values<int16_t>({1, 2}));
  ModelInferRequest typed_request;
  add_typed<float>(typed_request, "age", "FP32", {2}, {1, 2});
  add_typed<std::string>(typed_request, "city", "BYTES", {2, 1}, {"a", "b"});
  add_typed<int32_t>(typed_request, "user", "INT8", {1}, {5});
  int taken = 0;
  int refused = 0;
  for (const ModelInferRequest& whole : {raw_request, typed_request}) {
    const std::string good = whole.SerializeAsString();
    for (int i = 0; i < 40000; ++i) {
      std::string bytes = good;
      for (uint32_t n = 1 + random() % 3; n > 0; --n) bytes[random() % bytes.size()] = static_cast<char>(random());
      ModelInferRequest request;
      google::protobuf::LogSilencer quiet;
      if (!request.ParseFromString(bytes)) continue;
      google::protobuf::Arena arena;
      try {
        InferColumns columns = view_inputs(request, {}, kMaxRows, arena);
        size_t values = 0;
        for (const auto* list : {&columns.context, &columns.candidates}) {
          for (const Column& column : *list) values += shown(column).size();  // reads them all
        }
        EXPECT_LE(values, bytes.size());
        ++taken;
      } catch (const transform::InputError& error) {
        ASSERT_TRUE(transform::valid_utf8(error.what())) << transform::quote(error.what());
        ++refused;
      }
      EXPECT_LT(arena.SpaceUsed(), 20 * bytes.size() + sizeof(int32_t) * kMaxRows);
    }
  }
  EXPECT_GT(taken, 1000);
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace smt::server
