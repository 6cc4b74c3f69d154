#include "predict_reader.h"

#include <gtest/gtest.h>

#include "smt/v1/prediction.pb.h"

namespace smt::server {
namespace {

using google::protobuf::Arena;

constexpr WireLimits kLimits{.features = 10, .fields = 100};

v1::PredictRequest request() {
  v1::PredictRequest request;
  request.set_scenario("feed");
  request.set_rows(2);
  request.add_tasks("click");
  v1::Feature* age = request.add_context();
  age->set_name("age");
  age->mutable_doubles()->add_values(1);
  v1::Feature* user = request.add_candidates();
  user->set_name("user");
  user->mutable_ints()->add_values(-1);
  user->mutable_ints()->add_values(7);
  v1::Feature* city = request.add_candidates();
  city->set_name("city");
  for (const char* value : {"Wien", "Berlin", "Krak\xc3\xb3w"}) city->mutable_strings()->add_values(value);
  city->add_lengths(1);
  city->add_lengths(2);
  return request;
}

class PredictReaderTest : public testing::Test {
 protected:
  template <typename Read>
  std::string refused_by(Read read, const std::string& bytes) {
    try {
      read(bytes, kLimits, arena_);
    } catch (const transform::InputError& error) {
      return error.what();
    }
    return "";
  }
  std::string refused(const std::string& bytes) { return refused_by(read_predict, bytes); }
  std::string refused(const v1::PredictRequest& request) { return refused(request.SerializeAsString()); }
  std::string refused(const v1::MultiPredictRequest& request) {
    return refused_by(read_multi_predict, request.SerializeAsString());
  }
  // `from` occurs once in the good message and is replaced by as many bytes.
  std::string refused_with(const std::string& from, const std::string& to) {
    std::string bytes = request().SerializeAsString();
    bytes.replace(bytes.find(from), from.size(), to);
    return refused(bytes);
  }

  Arena arena_;
};

TEST_F(PredictReaderTest, ReadsARequest) {
  const std::string bytes = request().SerializeAsString();
  const PredictFields fields = read_predict(bytes, kLimits, arena_);
  ASSERT_EQ(fields.scenarios.size(), 1u);
  EXPECT_EQ(fields.scenarios[0].scenario, "feed");
  EXPECT_EQ(fields.scenarios[0].tasks, std::vector<std::string_view>{"click"});
  EXPECT_EQ(fields.rows, 2);
  ASSERT_EQ(fields.context.size(), 1u);
  EXPECT_EQ(fields.context[0].name, "age");
  EXPECT_EQ(std::get<transform::DoubleValues>(fields.context[0].values)[0], 1);
  ASSERT_EQ(fields.candidates.size(), 2u);
  EXPECT_EQ(std::get<transform::IntValues>(fields.candidates[0].values)[1], 7);
  const auto cities = std::get<transform::StringValues>(fields.candidates[1].values);
  EXPECT_EQ(cities[2], "Krak\xc3\xb3w");
  EXPECT_EQ(fields.candidates[1].lengths[1], 2);
  EXPECT_NO_THROW(fields.check_values());
}

// Whoever adds a field to these messages adds it to the reader too, and to the comparison with the parser.
TEST_F(PredictReaderTest, KnowsEveryField) {
  EXPECT_EQ(v1::PredictRequest::descriptor()->field_count(), 9);
  EXPECT_EQ(v1::MultiPredictRequest::descriptor()->field_count(), 6);
  EXPECT_EQ(v1::ScenarioRequest::descriptor()->field_count(), 4);
  EXPECT_EQ(v1::Feature::descriptor()->field_count(), 6);
  for (const auto* values :
       {v1::Floats::descriptor(), v1::Doubles::descriptor(), v1::Ints::descriptor(), v1::Strings::descriptor()}) {
    EXPECT_EQ(values->field_count(), 1) << values->full_name();
  }
}

TEST_F(PredictReaderTest, NamesThePlaceOfTextThatIsNotUtf8) {
  EXPECT_EQ(refused_with("feed",
                         "f\xff"
                         "ed"),
            "scenario: found 'f\\xffed'; expected UTF-8");
  EXPECT_EQ(refused_with("Berlin", "Ber\xed\xa0\x80"),
            "candidates[1] 'city'.strings.values[1]: found 'Ber\\xed\\xa0\\x80'; expected UTF-8");
  EXPECT_EQ(refused_with("age", "a\xc0\x80"), "context[0] 'a\\xc0\\x80'.name: found 'a\\xc0\\x80'; expected UTF-8");
  EXPECT_EQ(refused_with("click", "cli\xc3k"), "tasks[0]: found 'cli\\xc3k'; expected UTF-8");
}

TEST_F(PredictReaderTest, NamesTheMessageThatTheBytesAreNot) {
  EXPECT_EQ(refused("\xff\xff\xff"), "the message is not a smt.v1.PredictRequest: wire format damaged");
  EXPECT_EQ(refused_by(read_multi_predict, "\xff"),
            "the message is not a smt.v1.MultiPredictRequest: wire format damaged");
}

TEST_F(PredictReaderTest, RefusesGroups) {
  EXPECT_NE(refused("\xa3\x06\x08\x01\xa4\x06").find("wire format damaged"), std::string::npos);
  EXPECT_NE(refused("\xa4\x06").find("wire format damaged"), std::string::npos);
}

TEST_F(PredictReaderTest, NamesTheFeatureWithoutValues) {
  v1::PredictRequest spoilt = request();
  spoilt.mutable_candidates(1)->clear_values();
  const std::string bytes = spoilt.SerializeAsString();
  const PredictFields fields = read_predict(bytes, kLimits, arena_);
  EXPECT_EQ(fields.scenarios[0].scenario, "feed") << "known to who accounts for the refusal";
  try {
    fields.check_values();
    FAIL() << "not refused";
  } catch (const transform::InputError& error) {
    EXPECT_STREQ(error.what(), "feature 'city': no values set; expected one of floats, doubles, ints or strings");
  }
}

TEST_F(PredictReaderTest, CountsPackedNumbersAsOneFieldStringsAsOneEach) {
  v1::PredictRequest packed = request();
  for (int i = 0; i < 10000; ++i) packed.mutable_candidates(0)->mutable_ints()->add_values(i);
  EXPECT_EQ(refused(packed), "");
  v1::PredictRequest strings = request();
  for (int i = 0; i < 60; ++i) strings.mutable_candidates(1)->mutable_strings()->add_values("");
  EXPECT_EQ(refused(strings), "");
  for (int i = 0; i < 60; ++i) strings.mutable_candidates(1)->mutable_strings()->add_values("");
  EXPECT_NE(refused(strings).find("more than 100 fields, the server's max_fields"), std::string::npos);
}

TEST_F(PredictReaderTest, CountsFeaturesOfContextAndCandidatesTogether) {
  v1::PredictRequest many;
  for (int i = 0; i < 5; ++i) many.add_context();
  for (int i = 0; i < 5; ++i) many.add_candidates();
  EXPECT_EQ(refused(many), "");
  many.add_candidates();
  EXPECT_EQ(refused(many),
            "context and candidates: more than 10 features; expected each of the scenario's inputs once");
}

TEST_F(PredictReaderTest, CountsWhatTheProtocolDoesNotKnow) {
  std::string unknown;
  for (int i = 0; i < 101; ++i) unknown += "\xa0\x06\x01";  // field 100, a number
  EXPECT_NE(refused(unknown).find("more than 100 fields, the server's max_fields"), std::string::npos);
  EXPECT_EQ(refused(unknown.substr(0, 300)), "");
}

TEST_F(PredictReaderTest, CountsScenariosAndTheirTasks) {
  v1::MultiPredictRequest many;
  for (int i = 0; i < 3; ++i) {
    v1::ScenarioRequest* scenario = many.add_scenarios();
    for (int task = 0; task < 30; ++task) scenario->add_tasks("");
  }
  EXPECT_EQ(refused(many), "");
  for (int task = 0; task < 10; ++task) many.mutable_scenarios(0)->add_tasks("");
  EXPECT_NE(refused(many).find("more than 100 fields"), std::string::npos);
  many.clear_scenarios();
  for (size_t i = 0; i < kMaxScenarios; ++i) many.add_scenarios();
  EXPECT_EQ(refused(many), "");
  many.add_scenarios();
  EXPECT_EQ(refused(many), "scenarios: more than 64 entries; expected 1..64");
}

// Short runs of a list that grows with each, and lists that replace each other: memory stays of the message's order.
TEST_F(PredictReaderTest, MemoryIsOfTheOrderOfTheMessage) {
  auto memory_for = [](const std::string& part) {
    std::string feature;
    while (feature.size() < (1 << 16)) feature += part;
    std::string bytes = "\x2a";
    for (size_t size = feature.size(); size > 0; size >>= 7) {
      bytes += static_cast<char>((size & 0x7f) | (size >= 0x80 ? 0x80 : 0));
    }
    bytes += feature;
    Arena arena;
    read_predict(bytes, {.features = 10, .fields = 10'000'000}, arena);
    return static_cast<double>(arena.SpaceAllocated()) / static_cast<double>(bytes.size());
  };
  const std::string floats =
      "\x12\x06\x0a\x04"
      "abcd";
  const std::string ints =
      "\x22\x0a\x0a\x08"
      "abcdefgh";
  const std::string strings("\x2a\x04\x0a\x00\x0a\x00", 6);
  EXPECT_LT(memory_for(floats), 3);
  EXPECT_LT(memory_for(floats + ints), 3);
  EXPECT_LT(memory_for(strings), 20);
  EXPECT_LT(memory_for("\x35"
                       "abcd"),
            5)
      << "lengths, one by one";
}

}  // namespace
}  // namespace smt::server
