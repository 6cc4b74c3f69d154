// Specs that are not specs.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "test_spec.h"
#include "transform.h"

namespace smt::transform {
namespace {

using namespace std::string_view_literals;

// Whatever is done to a spec, parsing it ends in a FeatureSpec that can be used or in a SpecError.
class Mutated : public ::testing::Test {
 protected:
  void parse(const std::string& text) {
    try {
      const FeatureSpec spec = FeatureSpec::parse(text);
      ++accepted_;
      Batch out;
      const std::vector<double> age = {30.0};
      const std::vector<std::string_view> education = {"a"};
      try {
        spec.apply(1, {},
                   std::vector<Column>{{"age", DoubleValues(age), {}}, {"education", StringValues(education), {}}}, {},
                   out);
        EXPECT_EQ(out.dense.size(), static_cast<size_t>(spec.dense_slots()));
        EXPECT_EQ(out.bag_index.size(), static_cast<size_t>(spec.categorical_slots()));
        for (const int64_t id : out.ids) EXPECT_TRUE(id >= 0 && id < spec.table_rows()) << id;
      } catch (const InputError&) {
      }
    } catch (const SpecError& error) {
      ++refused_;
      EXPECT_GT(std::strlen(error.what()), 10u);
      EXPECT_LT(std::strlen(error.what()), 1000u);
      EXPECT_NO_THROW(nlohmann::json(error.what()).dump()) << "must be valid UTF-8";
    }
  }
  int accepted_ = 0;
  int refused_ = 0;
  std::mt19937 random_{20240607};
};

TEST_F(Mutated, Bytes) {
  constexpr std::string_view kBytes = "{}[]\",:0123456789.-+eE\\u\0\xff\xc3nulltrue "sv;
  for (int i = 0; i < 6000; ++i) {
    std::string text(kSpec);
    for (uint32_t n = 1 + random_() % 4; n > 0; --n) {
      const size_t at = random_() % text.size();
      switch (random_() % 5) {
        case 0:
          text[at] = static_cast<char>(random_());
          break;
        case 1:
          text[at] = kBytes[random_() % kBytes.size()];
          break;
        case 2:
          text.erase(at, 1 + random_() % 20);
          break;
        case 3:
          text.insert(at, text.substr(random_() % text.size(), random_() % 40));
          break;
        default:
          text.resize(at + 1);
      }
    }
    parse(text);
  }
  EXPECT_GT(accepted_, 50);
  EXPECT_GT(refused_, 3000);
}

TEST_F(Mutated, Values) {
  using nlohmann::json;
  const json original = json::parse(kSpec);
  const std::vector<json> replacements = {nullptr,
                                          true,
                                          0,
                                          1,
                                          -1,
                                          2,
                                          1e308,
                                          0.5,
                                          std::numeric_limits<int64_t>::max(),
                                          std::numeric_limits<int64_t>::min(),
                                          std::numeric_limits<uint64_t>::max(),
                                          "",
                                          "age",
                                          "int",
                                          "string",
                                          "hash",
                                          std::string(100000, 'n'),
                                          json::array(),
                                          json::object(),
                                          json::array({1, 1}),
                                          json::array({"a", "a"})};
  const json flat = original.flatten();
  for (const auto& item : flat.items()) {
    for (json::json_pointer place(item.key()); !place.empty(); place.pop_back()) {
      for (const json& replacement : replacements) {
        json mutated = original;
        mutated[place] = replacement;
        parse(mutated.dump());
      }
      json mutated = original;
      json& parent = mutated[place.parent_pointer()];
      if (parent.is_object()) parent.erase(place.back());
      parse(mutated.dump());
    }
  }
  EXPECT_GT(accepted_, 20);
  EXPECT_GT(refused_, 1000);
}

TEST_F(Mutated, Nesting) {
  parse(std::string(200000, '['));
  parse(std::string(200000, '[') + std::string(200000, ']'));
  parse("");
  parse("null");
  EXPECT_EQ(refused_, 4);
}

}  // namespace
}  // namespace smt::transform
