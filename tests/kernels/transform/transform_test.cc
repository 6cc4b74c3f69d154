// The C++ side on its own: reuse of a Batch, sharing between threads, and odd shapes.
// Values are checked against reference.py by test_transform.py; run this one under the sanitizers.
#include "transform.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "test_spec.h"

namespace smt::transform {
namespace {

using Strings = std::vector<std::string_view>;

Column column(std::string_view name, auto&& values, std::span<const int32_t> lengths = {}) {
  return {name, std::span(values), lengths};
}
Column strings(std::string_view name, const Strings& values, std::span<const int32_t> lengths = {}) {
  return {name, StringValues(values), lengths};
}

// A copy whose last byte is the last of its allocation: AddressSanitizer sees one byte of reading on.
template <class T>
std::vector<T> exact(std::vector<T> values) {
  values.shrink_to_fit();
  return values;
}

std::string error_of(const FeatureSpec& spec, int64_t rows, std::vector<Column> context, std::vector<Column> candidates,
                     Limits limits = {}) {
  Batch out;
  try {
    spec.apply(rows, context, candidates, limits, out);
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Transform, Describes) {
  const FeatureSpec spec = FeatureSpec::parse(kSpec);
  EXPECT_EQ(spec.dense_slots(), 3);
  EXPECT_EQ(spec.categorical_slots(), 6);
  EXPECT_EQ(spec.table_rows(), 31);
  ASSERT_EQ(spec.inputs().size(), 6u);
  EXPECT_EQ(spec.inputs()[0].name, "age");
  EXPECT_EQ(spec.inputs()[0].type, "number");
  EXPECT_TRUE(spec.inputs()[0].required);
  EXPECT_FALSE(spec.inputs()[0].multi_valued);
  EXPECT_EQ(spec.inputs()[3].name, "genres");
  EXPECT_TRUE(spec.inputs()[3].multi_valued);
  EXPECT_FALSE(spec.inputs()[3].required);
  EXPECT_EQ(spec.inputs()[5].type, "int");
}

TEST(Transform, PlacesContextCandidatesAndAbsentInputs) {
  const FeatureSpec spec = FeatureSpec::parse(kSpec);
  const std::vector<double> age = {9.0, 10.0, 100.0};
  const Strings education = {"a", "", "x"};
  const Strings genres = {"u", "v", "w"};
  const std::vector<int32_t> one_list = {3};
  const std::vector<int64_t> weeks = {52, std::numeric_limits<int64_t>::min()};
  const std::vector<int32_t> weeks_lengths = {1, 0, 1};
  Batch out;
  spec.apply(3, std::vector{strings("genres", genres, one_list)},
             std::vector{column("age", age), strings("education", education), column("weeks", weeks, weeks_lengths)},
             {}, out);

  EXPECT_EQ(out.rows, 3);
  const auto gain = static_cast<float>(std::log1p(7.0));
  EXPECT_EQ(out.dense, (std::vector<float>{4.0f, 0, gain, 4.5f, 0, gain, 44.75f, 0, gain}));
  // Bags: 0 reserved; 1-3 age_bucket; 4-6 education; 7 genres (context); 8-10 weeks; 11 user (absent).
  EXPECT_EQ(out.offsets, (std::vector<int64_t>{0, 0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12}));
  ASSERT_EQ(out.ids.size(), 12u);
  const std::vector<int64_t> head(out.ids.begin(), out.ids.begin() + 6);
  EXPECT_EQ(head, (std::vector<int64_t>{2, 3, 4, 5 + 2, 5 + 4, 5 + 1}));
  for (const int64_t id : {out.ids[6], out.ids[7]}) {
    EXPECT_GE(id, 10 + 2);
    EXPECT_LT(id, 17);
  }
  const std::vector<int64_t> tail(out.ids.begin() + 8, out.ids.end());
  EXPECT_EQ(tail, (std::vector<int64_t>{17 + 4, 17 + 0, 17 + 2, 22 + 0}));
  EXPECT_EQ(out.bag_index, (std::vector<int64_t>{1, 7, 8, 11, 0, 4,  //
                                                 2, 7, 9, 11, 0, 5,  //
                                                 3, 7, 10, 11, 0, 6}));

  const std::vector<int64_t> pool = out.ids;
  spec.apply(3, std::vector{strings("genres", genres, one_list)},
             std::vector{column("age", age), strings("education", education), column("weeks", weeks, weeks_lengths)},
             {}, out, /*local_ids=*/true);
  EXPECT_EQ(out.ids[0], 2);
  EXPECT_EQ(out.ids[3], 2);
  EXPECT_EQ(out.ids[6], pool[6] - 10);
  EXPECT_EQ(out.ids[8], 4);
  EXPECT_EQ(out.ids[11], 0);
}

TEST(Transform, ReusesCapacityAndSurvivesErrors) {
  const FeatureSpec spec = FeatureSpec::parse(kSpec);
  const auto apply = [&](size_t rows, Batch& out) {
    const std::vector<float> age(rows, 12.0f);
    const Strings education(rows, "b");
    const Strings genres(rows * 3, "g");
    const std::vector<int32_t> lengths(rows, 3);
    spec.apply(static_cast<int64_t>(rows), {},
               std::vector{column("age", age), strings("education", education), strings("genres", genres, lengths)}, {},
               out);
  };
  Batch out;
  apply(1000, out);
  const float* dense = out.dense.data();
  const int64_t* ids = out.ids.data();
  const int64_t* offsets = out.offsets.data();
  const int64_t* bag_index = out.bag_index.data();

  for (const size_t rows : {1u, 31u, 32u, 33u, 1000u}) {
    EXPECT_NE(error_of(spec, 0, {}, {}), "no error");
    const std::vector<float> nan = {std::nanf("")};
    EXPECT_THROW(spec.apply(1, {}, std::vector{column("age", nan)}, {}, out), InputError);

    apply(rows, out);
    Batch fresh;
    apply(rows, fresh);
    EXPECT_EQ(out.dense, fresh.dense);
    EXPECT_EQ(out.ids, fresh.ids);
    EXPECT_EQ(out.offsets, fresh.offsets);
    EXPECT_EQ(out.bag_index, fresh.bag_index);
    EXPECT_EQ(out.rows, static_cast<int64_t>(rows));
    EXPECT_EQ(out.dense.data(), dense);
    EXPECT_EQ(out.ids.data(), ids);
    EXPECT_EQ(out.offsets.data(), offsets);
    EXPECT_EQ(out.bag_index.data(), bag_index);
  }
}

TEST(Transform, ReadsNoFurtherThanItsColumns) {
  const FeatureSpec spec = FeatureSpec::parse(kSpec);
  for (size_t rows = 1; rows <= 70; ++rows) {
    const auto age = exact(std::vector<float>(rows, 1.5f));
    const auto user = exact(std::vector<int64_t>(rows, 3));
    // Every string ends at the end of its own allocation, at every alignment and size class of XXH3's short inputs.
    std::vector<std::vector<char>> bytes;
    Strings education;
    for (size_t row = 0; row < rows; ++row) {
      bytes.push_back(exact(std::vector<char>(row * 5, 'x')));
      education.emplace_back(bytes.back().data(), bytes.back().size());
    }
    Strings genres = education;
    std::vector<int32_t> lengths(rows, 1);
    lengths[rows / 2] = 0;
    genres.pop_back();
    Batch out;
    spec.apply(static_cast<int64_t>(rows), {},
               std::vector{column("age", age), column("user", user), strings("education", exact(education)),
                           strings("genres", exact(genres), lengths)},
               {}, out);
    EXPECT_EQ(static_cast<size_t>(out.offsets.back()), out.ids.size());
    // "" is a value of the vocabulary, longer strings are not.
    EXPECT_EQ(out.ids[rows], 5 + 4);
    if (rows > 1) {
      EXPECT_EQ(out.ids[rows + 1], 5 + 1);
    }
  }
}

TEST(Transform, NullViewsOfEmptyColumns) {
  const FeatureSpec spec = FeatureSpec::parse(kSpec);
  const std::vector<int32_t> none = {0};
  Batch out;
  const std::vector<Column> columns = {{"age", DoubleValues(), none},
                                       {"education", StringValues(), none},
                                       {"genres", StringValues(), none},
                                       {"user", IntValues(), none}};
  spec.apply(1, {}, columns, {}, out);
  EXPECT_EQ(out.dense[0], 0.0f);
  EXPECT_EQ(out.ids, (std::vector<int64_t>{0, 5 + 3, 17, 22}));
  const Strings null_string = {std::string_view()};  // "" without an address
  spec.apply(1, columns, {}, {}, out);
  spec.apply(1, std::vector{columns[0]}, std::vector{strings("education", null_string)}, {}, out);
  EXPECT_EQ(out.ids[1], 5 + 4);
}

TEST(Transform, HasTwoBagsWithoutCategoricalFeatures) {
  const FeatureSpec spec = FeatureSpec::parse(
      R"({"format": 1, "dense_slots": 1, "categorical_slots": 2, "table_rows": 0, "features": [
          {"name": "x", "input": "x", "type": "number", "required": false, "kind": "dense", "slot": 0, "steps": []}]})");
  Batch out;
  spec.apply(2, {}, {}, {}, out);
  EXPECT_EQ(out.dense, (std::vector<float>{0, 0}));
  EXPECT_EQ(out.ids.size(), 0u);
  EXPECT_EQ(out.offsets, (std::vector<int64_t>{0, 0, 0}));
  EXPECT_EQ(out.bag_index, (std::vector<int64_t>{0, 0, 0, 0}));
}

TEST(Transform, SaturatesHugeValues) {
  const FeatureSpec spec = FeatureSpec::parse(
      R"({"format": 1, "dense_slots": 1, "categorical_slots": 0, "table_rows": 0, "features": [
          {"name": "x", "input": "x", "type": "number", "required": true, "kind": "dense", "slot": 0,
           "steps": [{"op": "normalise", "mean": -1e308, "std": 5e-324}]}]})");
  const std::vector<double> x = {1.7e308, -1.7e308, 0.0, -1e308, 5e-324};
  Batch out;
  spec.apply(5, {}, std::vector{column("x", x)}, {}, out);
  EXPECT_EQ(out.dense, (std::vector<float>{1e6f, -1e6f, 1e6f, 0.0f, 1e6f}));
}

TEST(Transform, NamesTheRowOfAValue) {
  const FeatureSpec spec = FeatureSpec::parse(kSpec);
  const std::vector<double> age = {1.0, -std::numeric_limits<double>::infinity()};
  const std::vector<int32_t> lengths = {0, 1, 0, 0, 1, 0};
  EXPECT_EQ(error_of(spec, 6, {}, {column("age", age, lengths)}),
            "feature 'age': -Inf in row 4; expected finite numbers (length 0 where missing)");
}

TEST(Transform, KeepsMessagesPrintableAndShort) {
  const FeatureSpec spec = FeatureSpec::parse(kSpec);
  const std::vector<double> one = {1.0};
  const auto unknown = [&](std::string_view name) { return error_of(spec, 1, {}, {column(name, one)}); };
  EXPECT_EQ(unknown("agee"), "feature 'agee': unknown feature; did you mean 'age'?");
  EXPECT_EQ(unknown(""),
            "feature '': unknown feature; expected one of 'age', 'gain', 'education', 'genres', 'weeks', 'user'");
  EXPECT_TRUE(unknown("a\n\xff\xc3\xa9\xed\xa0\x80").starts_with("feature 'a\\x0a\\xff\xc3\xa9\\xed\\xa0\\x80': unk"));
  EXPECT_LT(unknown(std::string(1 << 20, 'y')).size(), 300u);
  EXPECT_NE(unknown(std::string(1 << 20, 'y')).find("(cut, 1048576 bytes)"), std::string::npos);
}

// One immutable spec, many threads, a Batch each. ThreadSanitizer is the judge of the first half of that.
TEST(Transform, IsSharedByThreads) {
  const FeatureSpec spec = FeatureSpec::parse(kSpec);
  std::vector<std::string> names;
  for (int i = 0; i < 200; ++i) names.push_back("genre" + std::to_string(i));
  const auto run = [&](int seed, Batch& out) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    const size_t rows = 1 + random() % 200;
    std::vector<double> age(rows);
    Strings education(rows);
    Strings genres;
    std::vector<int32_t> lengths(rows);
    for (size_t row = 0; row < rows; ++row) {
      age[row] = random() % 100;
      education[row] = random() % 2 ? "a" : "other";
      lengths[row] = static_cast<int32_t>(random() % 4);
      for (int i = 0; i < lengths[row]; ++i) genres.push_back(names[random() % names.size()]);
    }
    spec.apply(static_cast<int64_t>(rows), {},
               std::vector{column("age", age), strings("education", education), strings("genres", genres, lengths)}, {},
               out);
  };
  constexpr int kSeeds = 40;
  std::vector<Batch> expected(kSeeds);
  for (int seed = 0; seed < kSeeds; ++seed) run(seed, expected[static_cast<size_t>(seed)]);
  std::vector<int> wrong(4);
  {
    std::vector<std::jthread> threads;
    for (size_t t = 0; t < wrong.size(); ++t) {
      threads.emplace_back([&, t] {
        Batch out;
        for (int i = 0; i < kSeeds; ++i) {
          const auto seed = (i + static_cast<int>(t) * 11) % kSeeds;
          run(seed, out);
          const Batch& want = expected[static_cast<size_t>(seed)];
          wrong[t] += out.ids != want.ids || out.offsets != want.offsets || out.dense != want.dense ||
                      out.bag_index != want.bag_index;
        }
      });
    }
  }
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

}  // namespace
}  // namespace smt::transform
