#include "wire_scan.h"

#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <gtest/gtest.h>

#include "inference/grpc_service.pb.h"
#include "smt/v1/prediction.pb.h"

namespace smt::server {
namespace {

constexpr WireLimits kLimits{.features = 10, .fields = 100};

// In blocks of 3 bytes, as the bytes of a call may arrive.
std::string scan(const std::string& message, const WireLimits& limits = kLimits,
                 RequestKind kind = RequestKind::kPredict) {
  google::protobuf::io::ArrayInputStream stream(message.data(), static_cast<int>(message.size()), 3);
  return scan_request(stream, kind, limits);
}
std::string scan_infer(const google::protobuf::Message& message) {
  return scan(message.SerializeAsString(), kLimits, RequestKind::kModelInfer);
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

inference::ModelInferRequest infer_request() {
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

TEST(WireScan, CountsTheInputsOfTheOpenInferenceProtocol) {
  EXPECT_EQ(scan_infer(infer_request()), "");
  inference::ModelInferRequest many = infer_request();
  while (many.inputs_size() < 10) many.add_inputs();
  EXPECT_EQ(scan_infer(many), "");
  many.add_inputs();
  EXPECT_NE(scan_infer(many).find("inputs: more than 10 features"), std::string::npos);
}

// Each of these takes memory out of two bytes of the message.
TEST(WireScan, CountsEveryPartOfAnInferRequest) {
  auto refused = [](const auto& spoil) {
    inference::ModelInferRequest request = infer_request();
    for (int i = 0; i < 101; ++i) spoil(request, std::to_string(i));
    return scan_infer(request).find("more than 100 fields, the server's max_fields") != std::string::npos;
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
  inference::ModelInferRequest request;
  ASSERT_TRUE((*request.mutable_parameters())["rows"].ParseFromString(unknown));
  EXPECT_NE(scan_infer(request).find("more than 100 fields"), std::string::npos);
  // Numbers are packed: one field.
  request = infer_request();
  for (int i = 0; i < 1000; ++i) request.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1);
  EXPECT_EQ(scan_infer(request), "");
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
template <class Request>
void agrees_with_the_parser(const std::string& whole, RequestKind kind) {
  int taken = 0;
  auto agree = [&](const std::string& bytes) {
    Request parsed;
    std::string found = scan(bytes, kLimits, kind);
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

TEST(WireScan, AgreesWithTheParserOnEveryTruncationAndFlippedBit) {
  agrees_with_the_parser<v1::PredictRequest>(request().SerializeAsString(), RequestKind::kPredict);
  agrees_with_the_parser<inference::ModelInferRequest>(infer_request().SerializeAsString(), RequestKind::kModelInfer);
}

TEST(WireScan, CountsTheTasksOfEveryScenario) {
  v1::MultiPredictRequest many;
  for (int i = 0; i < 3; ++i) {
    v1::ScenarioRequest* scenario = many.add_scenarios();
    scenario->set_scenario("income");
    for (int task = 0; task < 30; ++task) scenario->add_tasks("");
  }
  EXPECT_EQ(scan(many.SerializeAsString(), kLimits, RequestKind::kMultiPredict), "");
  for (int task = 0; task < 10; ++task) many.mutable_scenarios(0)->add_tasks("");
  EXPECT_NE(scan(many.SerializeAsString(), kLimits, RequestKind::kMultiPredict).find("more than 100 fields"),
            std::string::npos);
}

}  // namespace
}  // namespace smt::server
