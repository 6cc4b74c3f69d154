#include "parse_message.h"

#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include <random>

#include "byte_buffer.h"
#include "smt/v1/prediction.pb.h"
#include "text.h"

namespace smt::server {
namespace {

// In slices of `slice` bytes, as the bytes of a call may arrive.
std::string parse(const std::string& bytes, google::protobuf::Message& out, size_t slice = 1 << 20) {
  google::protobuf::LogSilencer quiet;
  return parse_message(in_slices(bytes, slice), out);
}

v1::PredictRequest request() {
  v1::PredictRequest request;
  request.set_scenario("feed");
  request.add_tasks("click");
  v1::Feature* age = request.add_context();
  age->set_name("age");
  age->mutable_doubles()->add_values(1);
  v1::Feature* city = request.add_candidates();
  city->set_name("city");
  for (const char* value : {"Wien", "Berlin", "Krak\xc3\xb3w"}) city->mutable_strings()->add_values(value);
  return request;
}

TEST(ParseMessage, TakesWhatIsOne) {
  for (size_t slice : {1, 7, 1000}) {
    v1::PredictRequest parsed;
    EXPECT_EQ(parse(request().SerializeAsString(), parsed, slice), "");
    EXPECT_EQ(parsed.SerializeAsString(), request().SerializeAsString());
  }
  v1::ListScenariosRequest empty;
  EXPECT_EQ(parse("", empty), "");
}

// `from` occurs once in the good message and is replaced by as many bytes.
std::string spoilt(const std::string& from, const std::string& to, size_t slice = 1 << 20) {
  std::string bytes = request().SerializeAsString();
  bytes.replace(bytes.find(from), from.size(), to);
  v1::PredictRequest parsed;
  return parse(bytes, parsed, slice);
}

TEST(ParseMessage, NamesThePlaceOfTextThatIsNotUtf8) {
  for (size_t slice : {1, 7, 1000}) {
    EXPECT_EQ(spoilt("feed",
                     "f\xff"
                     "ed",
                     slice),
              "scenario: found 'f\\xffed'; expected UTF-8");
    EXPECT_EQ(spoilt("Berlin", "Ber\xed\xa0\x80", slice),
              "candidates[0] 'city'.strings.values[1]: found 'Ber\\xed\\xa0\\x80'; expected UTF-8");
    EXPECT_EQ(spoilt("age", "a\xc0\x80", slice), "context[0] 'a\\xc0\\x80'.name: found 'a\\xc0\\x80'; expected UTF-8");
    EXPECT_EQ(spoilt("click", "cli\xc3k", slice), "tasks[0]: found 'cli\\xc3k'; expected UTF-8");
  }
}

TEST(ParseMessage, NamesTheMessageThatTheBytesAreNot) {
  v1::GetScenarioRequest scenario;
  EXPECT_EQ(parse("\xff\xff\xff", scenario), "the message is not a smt.v1.GetScenarioRequest: wire format damaged");
  EXPECT_EQ(parse("\x0a\x02\xc3\x28", scenario), "scenario: found '\\xc3('; expected UTF-8");
}

TEST(ParseMessage, ErrorsAreUtf8WhateverTheBytes) {
  std::mt19937 random(20240607);
  std::string good = request().SerializeAsString();
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = good;
    for (uint32_t n = 1 + random() % 4; n > 0; --n) bytes[random() % bytes.size()] = static_cast<char>(random());
    v1::PredictRequest parsed;
    std::string error = parse(bytes, parsed, 1 + random() % 50);
    ASSERT_TRUE(transform::valid_utf8(error)) << transform::quote(error);
    refused += error.empty() ? 0 : 1;
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace smt::server
