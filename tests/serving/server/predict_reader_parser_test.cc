// What is read from bytes against what the generated parser makes of them.
#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/unknown_field_set.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>

#include "byte_buffer.h"
#include "message_bytes.h"
#include "parse_message.h"
#include "predict_reader.h"
#include "random_wire.h"
#include "smt/v1/prediction.pb.h"
#include "text.h"

namespace smt::server {
namespace {

using google::protobuf::Arena;
using google::protobuf::Descriptor;
using google::protobuf::UnknownField;

constexpr WireLimits kLimits{.features = 1000, .fields = 100000};

// All that a request says, as text: numbers by their bits, so that any two differ that are not the same.
using Lines = std::vector<std::string>;

std::string exactly(std::string_view text) { return " " + std::to_string(text.size()) + ":" + std::string(text); }

template <typename T>
std::string bits(const T& value) {
  if constexpr (std::is_same_v<T, float>) {
    return std::to_string(std::bit_cast<uint32_t>(value));
  } else if constexpr (std::is_same_v<T, double>) {
    return std::to_string(std::bit_cast<uint64_t>(value));
  } else if constexpr (std::is_integral_v<T>) {
    return std::to_string(value);
  } else {
    return exactly(value);
  }
}

template <typename Values>
std::string listed(const std::string& kind, const Values& values) {
  std::string out = kind + "[" + std::to_string(values.size()) + "]";
  for (const auto& value : values) out += " " + bits(value);
  return out;
}

std::string values_of(const v1::Feature& feature) {
  switch (feature.values_case()) {
    case v1::Feature::kFloats:
      return listed("floats", feature.floats().values());
    case v1::Feature::kDoubles:
      return listed("doubles", feature.doubles().values());
    case v1::Feature::kInts:
      return listed("ints", feature.ints().values());
    case v1::Feature::kStrings:
      return listed("strings", feature.strings().values());
    case v1::Feature::VALUES_NOT_SET:
      break;
  }
  return "floats[0]";  // PredictFields::valueless tells it from a list of none
}

template <typename T>
bool aligned(std::span<const T> values) {
  return reinterpret_cast<uintptr_t>(values.data()) % alignof(T) == 0;
}

std::string values_of(const transform::Column& column) {
  constexpr const char* kKinds[]{"floats", "doubles", "ints", "strings"};
  return std::visit(
      [&](const auto& values) {
        EXPECT_TRUE(aligned(values));
        return listed(kKinds[column.values.index()], values);
      },
      column.values);
}

template <typename Request>
Lines lines_of(const Request& request) {
  Lines out{"rows " + std::to_string(request.rows()), "id " + exactly(request.request_id()),
            "key " + exactly(request.request_key())};
  auto add_scenario = [&](const auto& scenario) {
    out.push_back("scenario " + exactly(scenario.scenario()) + exactly(scenario.version()) + exactly(scenario.label()) +
                  listed("tasks", scenario.tasks()));
  };
  if constexpr (std::is_same_v<Request, v1::PredictRequest>) {
    add_scenario(request);
  } else {
    for (const v1::ScenarioRequest& scenario : request.scenarios()) add_scenario(scenario);
  }
  auto add_features = [&](const char* list, const auto& features) {
    for (const v1::Feature& feature : features) {
      out.push_back(list + exactly(feature.name()) + values_of(feature) + listed(" lengths", feature.lengths()));
    }
  };
  add_features("context ", request.context());
  add_features("candidates ", request.candidates());
  auto any_valueless = [](const auto& features) {
    return std::any_of(features.begin(), features.end(),
                       [](const v1::Feature& feature) { return feature.values_case() == v1::Feature::VALUES_NOT_SET; });
  };
  out.push_back(any_valueless(request.context()) || any_valueless(request.candidates()) ? "valueless" : "");
  return out;
}

Lines lines_of(const PredictFields& fields) {
  Lines out{"rows " + std::to_string(fields.rows), "id " + exactly(fields.request_id),
            "key " + exactly(fields.request_key)};
  for (const ScenarioFields& scenario : fields.scenarios) {
    out.push_back("scenario " + exactly(scenario.scenario) + exactly(scenario.version) + exactly(scenario.label) +
                  listed("tasks", scenario.tasks));
  }
  auto add_columns = [&](const char* list, const std::vector<transform::Column>& columns) {
    for (const transform::Column& column : columns) {
      EXPECT_TRUE(aligned(column.lengths));
      out.push_back(list + exactly(column.name) + values_of(column) + listed(" lengths", column.lengths));
    }
  };
  add_columns("context ", fields.context);
  add_columns("candidates ", fields.candidates);
  out.push_back(fields.valueless ? "valueless" : "");
  return out;
}

// Whether a group is anywhere in the message: also where it was replaced by a later field.
bool holds_group(const std::string& bytes, const Descriptor& type) {
  google::protobuf::UnknownFieldSet fields;
  if (!fields.ParseFromString(bytes)) return false;
  for (int i = 0; i < fields.field_count(); ++i) {
    const UnknownField& field = fields.field(i);
    if (field.type() == UnknownField::TYPE_GROUP) return true;
    const auto* known = type.FindFieldByNumber(field.number());
    if (known == nullptr || known->message_type() == nullptr) continue;
    if (field.type() != UnknownField::TYPE_LENGTH_DELIMITED) continue;
    if (holds_group(field.length_delimited(), *known->message_type())) return true;
  }
  return false;
}

struct Tally {
  int read = 0;
  int damaged = 0;
  int not_utf8 = 0;
  int groups = 0;
};

template <typename Request>
void compare(const std::string& bytes, size_t slice, Tally& tally) {
  SCOPED_TRACE(testing::PrintToString(bytes));
  const grpc::ByteBuffer buffer = in_slices(bytes, slice);
  Arena arena;
  Request parsed;
  const std::string expected = parse_message(buffer, parsed);
  try {
    const std::string_view whole = in_one_piece(buffer, arena);
    const PredictFields fields = std::is_same_v<Request, v1::PredictRequest>
                                     ? read_predict(whole, kLimits, arena)
                                     : read_multi_predict(whole, kLimits, arena);
    ASSERT_EQ(expected, "") << "read though the parser refuses it";
    ASSERT_EQ(lines_of(fields), lines_of(parsed));
    ++tally.read;
  } catch (const transform::InputError& error) {
    const std::string found = error.what();
    ASSERT_TRUE(transform::valid_utf8(found));
    if (found.ends_with("expected UTF-8")) {
      ASSERT_EQ(found, expected);
      ++tally.not_utf8;
    } else {
      ASSERT_TRUE(found.ends_with("wire format damaged")) << found;
      if (expected.empty()) {
        ASSERT_TRUE(holds_group(bytes, *Request::descriptor())) << "refused though the parser takes it";
        ++tally.groups;
      } else {
        ++tally.damaged;
      }
    }
  }
}

template <typename Request>
void compare_many(uint32_t seed) {
  google::protobuf::LogSilencer quiet;
  RandomWire wire(seed);
  Tally tally;
  for (int i = 0; i < 40000 && !testing::Test::HasFatalFailure(); ++i) {
    std::string bytes = wire.message(*Request::descriptor());
    const bool spoil = wire.one_in(3);
    compare<Request>(spoil ? wire.spoilt(bytes) : bytes, 1 + wire.below(wire.one_in(2) ? 40 : 1000), tally);
  }
  EXPECT_GT(tally.read, 10000);
  EXPECT_GT(tally.damaged, 1000);
  EXPECT_GT(tally.not_utf8, 100);
  EXPECT_GT(tally.groups, 100);
}

TEST(PredictReaderAgainstParser, ReadsTheSameOfPredictRequests) { compare_many<v1::PredictRequest>(20240601); }

TEST(PredictReaderAgainstParser, ReadsTheSameOfMultiPredictRequests) {
  compare_many<v1::MultiPredictRequest>(20240602);
}

}  // namespace
}  // namespace smt::server
