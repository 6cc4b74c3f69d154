#include "wire_scan.h"

#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <gtest/gtest.h>

#include "inference/grpc_service.pb.h"

namespace smt::server {
namespace {

constexpr WireLimits kLimits{.features = 10, .fields = 100};

// In blocks of 3 bytes, as the bytes of a call may arrive.
std::string scan(const std::string& message) {
  google::protobuf::io::ArrayInputStream stream(message.data(), static_cast<int>(message.size()), 3);
  return scan_infer_request(stream, kLimits);
}

inference::ModelInferRequest request() {
  inference::ModelInferRequest request;
  request.set_model_name("income");
  (*request.mutable_parameters())["rows"].set_int64_param(2);
  auto* age = request.add_inputs();
  age->set_name("age");
  age->set_datatype("FP32");
  age->add_shape(1);
  age->mutable_contents()->add_fp32_contents(1);
  (*age->mutable_parameters())["binary_data"].set_bool_param(true);
  auto* city = request.add_inputs();
  city->set_name("city");
  for (const char* value : {"a", "", "\xc3\xa4"}) city->mutable_contents()->add_bytes_contents(value);
  (*request.add_outputs()->mutable_parameters())["classification"].set_int64_param(0);
  return request;
}

TEST(WireScan, LetsRequestsPass) {
  EXPECT_EQ(scan(request().SerializeAsString()), "");
  EXPECT_EQ(scan(""), "");
}

TEST(WireScan, CountsWhatTheProtocolDoesNotKnow) {
  std::string unknown;
  for (int i = 0; i < 101; ++i) unknown += "\xa0\x06\x01";  // field 100, a number
  EXPECT_NE(scan(unknown).find("more than 100 fields, the server's max_fields"), std::string::npos);
  EXPECT_EQ(scan(unknown.substr(0, 300)), "");
}

TEST(WireScan, CountsInputs) {
  EXPECT_EQ(scan(request().SerializeAsString()), "");
  inference::ModelInferRequest many = request();
  while (many.inputs_size() < 10) many.add_inputs();
  EXPECT_EQ(scan(many.SerializeAsString()), "");
  many.add_inputs();
  EXPECT_NE(scan(many.SerializeAsString()).find("inputs: more than 10 features"), std::string::npos);
}

// Each of these takes memory out of two bytes of the message.
TEST(WireScan, CountsEveryPart) {
  auto refused = [](const auto& spoil) {
    inference::ModelInferRequest spoilt = request();
    for (int i = 0; i < 101; ++i) spoil(spoilt, std::to_string(i));
    return scan(spoilt.SerializeAsString()).find("more than 100 fields, the server's max_fields") != std::string::npos;
  };
  using Request = inference::ModelInferRequest;
  EXPECT_TRUE(
      refused([](Request& r, const auto&) { r.mutable_inputs(1)->mutable_contents()->add_bytes_contents(""); }));
  EXPECT_TRUE(refused([](Request& r, const auto&) { r.add_raw_input_contents(""); }));
  EXPECT_TRUE(refused([](Request& r, const auto&) { r.add_outputs(); }));
  EXPECT_TRUE(refused([](Request& r, const std::string& name) { (*r.mutable_parameters())[name]; }));
  EXPECT_TRUE(refused([](Request& r, const std::string& name) { (*r.mutable_inputs(0)->mutable_parameters())[name]; }));
  EXPECT_TRUE(
      refused([](Request& r, const std::string& name) { (*r.mutable_outputs(0)->mutable_parameters())[name]; }));
  // Fields that the protocol does not know, in a parameter's value.
  std::string unknown;
  for (int i = 0; i < 101; ++i) unknown += "\xa0\x06\x01";
  inference::ModelInferRequest many;
  ASSERT_TRUE((*many.mutable_parameters())["rows"].ParseFromString(unknown));
  EXPECT_NE(scan(many.SerializeAsString()).find("more than 100 fields"), std::string::npos);
  // Numbers are packed: one field.
  many = request();
  for (int i = 0; i < 1000; ++i) many.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1);
  EXPECT_EQ(scan(many.SerializeAsString()), "");
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
  const std::string whole = request().SerializeAsString();
  int taken = 0;
  auto agree = [&](const std::string& bytes) {
    inference::ModelInferRequest parsed;
    if (!parsed.ParseFromString(bytes) || holds_group(parsed)) return;
    EXPECT_EQ(scan(bytes), "") << testing::PrintToString(bytes);
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
