#include "wire_scan.h"

#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <gtest/gtest.h>

#include "smt/v1/prediction.pb.h"

namespace smt::server {
namespace {

constexpr WireLimits kLimits{.features = 10, .fields = 100};

// In blocks of 3 bytes, as the bytes of a call may arrive.
std::string scan(const std::string& message, const WireLimits& limits = kLimits) {
  google::protobuf::io::ArrayInputStream stream(message.data(), static_cast<int>(message.size()), 3);
  return scan_request(stream, limits);
}

v1::PredictRequest request() {
  v1::PredictRequest request;
  request.set_scenario("income");
  request.set_rows(2);
  request.set_version("v");
  request.add_tasks("click");
  v1::Feature* age = request.add_context();
  age->set_name("age");
  age->mutable_floats()->add_values(1);
  v1::Feature* user = request.add_candidates();
  user->set_name("user");
  user->mutable_ints()->add_values(-1);
  user->mutable_ints()->add_values(7);
  v1::Feature* city = request.add_candidates();
  city->set_name("city");
  for (const char* value : {"a", "", "\xc3\xa4"}) city->mutable_strings()->add_values(value);
  city->add_lengths(1);
  city->add_lengths(2);
  return request;
}

TEST(WireScan, LetsRequestsPass) {
  EXPECT_EQ(scan(request().SerializeAsString()), "");
  EXPECT_EQ(scan(""), "");
}

TEST(WireScan, PackedNumbersAreOneFieldStringsOneEach) {
  v1::PredictRequest packed = request();
  for (int i = 0; i < 10000; ++i) packed.mutable_candidates(0)->mutable_ints()->add_values(i);
  EXPECT_EQ(scan(packed.SerializeAsString()), "");
  v1::PredictRequest strings = request();
  for (int i = 0; i < 60; ++i) strings.mutable_candidates(1)->mutable_strings()->add_values("");
  EXPECT_EQ(scan(strings.SerializeAsString()), "");
  for (int i = 0; i < 60; ++i) strings.mutable_candidates(1)->mutable_strings()->add_values("");
  EXPECT_NE(scan(strings.SerializeAsString()).find("more than 100 fields, the server's max_fields"), std::string::npos);
}

TEST(WireScan, CountsFeaturesOfContextAndCandidatesTogether) {
  v1::PredictRequest many;
  for (int i = 0; i < 5; ++i) many.add_context();
  for (int i = 0; i < 5; ++i) many.add_candidates();
  EXPECT_EQ(scan(many.SerializeAsString()), "");
  many.add_candidates();
  EXPECT_NE(scan(many.SerializeAsString()).find("context and candidates: more than 10 features"), std::string::npos);
}

TEST(WireScan, CountsWhatTheProtocolDoesNotKnow) {
  std::string unknown;
  for (int i = 0; i < 101; ++i) unknown += "\xa0\x06\x01";  // field 100, a number
  EXPECT_NE(scan(unknown).find("more than 100 fields, the server's max_fields"), std::string::npos);
  EXPECT_EQ(scan(unknown.substr(0, 300)), "");
}

TEST(WireScan, LimitsFollowTheRows) {
  EXPECT_EQ(wire_limits(4096).fields, 4096 * 256);
  EXPECT_EQ(wire_limits(1).fields, 4096 * 256) << "few rows may have long lists";
  EXPECT_EQ(wire_limits(65536).fields, 65536 * 256);
}

TEST(WireScan, RefusesGroups) {
  EXPECT_NE(scan("\xa3\x06\x08\x01\xa4\x06").find("wire format damaged"), std::string::npos);
  EXPECT_NE(scan("\xa4\x06").find("wire format damaged"), std::string::npos);
}

// Whether the parser kept a group that it does not know, anywhere in the message.
bool holds_group(const google::protobuf::Message& message) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  const google::protobuf::UnknownFieldSet& unknown = reflection.GetUnknownFields(message);
  for (int i = 0; i < unknown.field_count(); ++i) {
    if (unknown.field(i).type() == google::protobuf::UnknownField::TYPE_GROUP) return true;
  }
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const auto* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (holds_group(field->is_repeated() ? reflection.GetRepeatedMessage(message, field, i)
                                           : reflection.GetMessage(message, field))) {
        return true;
      }
    }
  }
  return false;
}

// The scan may pass what the parser then refuses, but must not refuse what the parser takes (groups apart).
TEST(WireScan, AgreesWithTheParserOnEveryTruncationAndFlippedBit) {
  std::string whole = request().SerializeAsString();
  int taken = 0;
  auto agree = [&](const std::string& bytes) {
    v1::PredictRequest parsed;
    std::string found = scan(bytes);
    if (!parsed.ParseFromString(bytes) || holds_group(parsed)) return;
    EXPECT_EQ(found, "") << testing::PrintToString(bytes);
    ++taken;
  };
  for (size_t length = 0; length <= whole.size(); ++length) agree(whole.substr(0, length));
  for (size_t at = 0; at < whole.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      agree(damaged);
    }
  }
  EXPECT_GT(taken, 100) << "the comparison must not be empty";
}

}  // namespace
}  // namespace smt::server
