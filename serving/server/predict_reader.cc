#include "predict_reader.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <variant>

#include "arena_list.h"
#include "names.h"
#include "smt/v1/prediction.pb.h"
#include "wire.h"

namespace smt::server {
namespace {

using google::protobuf::Arena;
using transform::InputError;
using v1::Feature;

constexpr uint32_t bytes_tag(int field) { return wire_tag(field, WireType::kBytes); }

// The oneof of a Feature.
using Values =
    std::variant<std::monostate, ArenaList<float>, ArenaList<double>, ArenaList<int64_t>, ArenaList<std::string_view>>;

template <typename T>
ArenaList<T>& member(Values& values) {
  ArenaList<T>* same = std::get_if<ArenaList<T>>(&values);
  return same != nullptr ? *same : values.emplace<ArenaList<T>>();
}

// Where a message lies, for the texts of errors.
struct Place {
  const char* list = nullptr;  // null: it is the request
  size_t index = 0;
  std::string_view name = {};  // of the feature

  std::string text() const {
    if (list == nullptr) return "";
    return list + ("[" + std::to_string(index) + "]") + (name.empty() ? "" : " " + quote(name)) + ".";
  }
};

class Reader {
 public:
  Reader(const WireLimits& limits, Arena& arena, size_t message) : limits_(limits), memory_(arena, message) {}

  PredictFields predict(Wire wire) {
    using Request = v1::PredictRequest;
    reserve<Request>(wire);
    ScenarioFields& scenario = out_.scenarios.emplace_back();
    each_field(wire, [&](uint32_t tag) {
      return scenario_field<Request>(tag, wire, {}, scenario) || shared_field<Request>(tag, wire);
    });
    return std::move(out_);
  }

  PredictFields multi_predict(Wire wire) {
    using Request = v1::MultiPredictRequest;
    reserve<Request>(wire);
    each_field(wire, [&](uint32_t tag) {
      if (tag != bytes_tag(Request::kScenariosFieldNumber)) return shared_field<Request>(tag, wire);
      if (out_.scenarios.size() == kMaxScenarios) {
        throw InputError("scenarios: more than " + std::to_string(kMaxScenarios) + " entries; expected 1.." +
                         std::to_string(kMaxScenarios));
      }
      const Place place{.list = "scenarios", .index = out_.scenarios.size()};
      ScenarioFields& scenario = out_.scenarios.emplace_back();
      Wire inside(wire.bytes());
      each_field(inside,
                 [&](uint32_t inner) { return scenario_field<v1::ScenarioRequest>(inner, inside, place, scenario); });
      return true;
    });
    return std::move(out_);
  }

 private:
  // Calls `read(tag)` for each field, which reads the rest of it, or returns false if it does not know the field.
  template <typename Read>
  void each_field(Wire& wire, Read&& read) {
    while (!wire.done()) {
      const uint32_t tag = wire.tag();
      if (++fields_ > limits_.fields) throw InputError(too_many_fields(limits_));
      if (!read(tag)) wire.skip(tag);
    }
  }

  // Room for all features: a count is far cheaper than the growth of the lists.
  template <typename Request>
  void reserve(Wire wire) {
    size_t context = 0;
    size_t candidates = 0;
    for (int64_t fields = 0; !wire.done() && fields < limits_.fields; ++fields) {
      const uint32_t tag = wire.tag();
      if (tag == bytes_tag(Request::kContextFieldNumber)) ++context;
      if (tag == bytes_tag(Request::kCandidatesFieldNumber)) ++candidates;
      wire.skip(tag);
    }
    const auto most = static_cast<size_t>(limits_.features);
    out_.context.reserve(std::min(context, most));
    out_.candidates.reserve(std::min(candidates, most));
  }

  // What both requests have.
  template <typename Request>
  bool shared_field(uint32_t tag, Wire& wire) {
    switch (tag) {
      case wire_tag(Request::kRowsFieldNumber, WireType::kVarint):
        out_.rows = static_cast<int32_t>(wire.varint());  // higher bits are dropped, as by the parser
        return true;
      case bytes_tag(Request::kContextFieldNumber):
        add_feature(Wire(wire.bytes()), "context", out_.context);
        return true;
      case bytes_tag(Request::kCandidatesFieldNumber):
        add_feature(Wire(wire.bytes()), "candidates", out_.candidates);
        return true;
      case bytes_tag(Request::kRequestIdFieldNumber):
        out_.request_id = text(wire, {}, "request_id");
        return true;
      case bytes_tag(Request::kRequestKeyFieldNumber):
        out_.request_key = text(wire, {}, "request_key");
        return true;
      default:
        return false;
    }
  }

  // What a ScenarioRequest has, and a PredictRequest for its only one.
  template <typename Message>
  bool scenario_field(uint32_t tag, Wire& wire, const Place& place, ScenarioFields& out) {
    switch (tag) {
      case bytes_tag(Message::kScenarioFieldNumber):
        out.scenario = text(wire, place, "scenario");
        return true;
      case bytes_tag(Message::kVersionFieldNumber):
        out.version = text(wire, place, "version");
        return true;
      case bytes_tag(Message::kLabelFieldNumber):
        out.label = text(wire, place, "label");
        return true;
      case bytes_tag(Message::kTasksFieldNumber):
        out.tasks.push_back(text(wire, place, "tasks", out.tasks.size()));
        return true;
      default:
        return false;
    }
  }

  void add_feature(Wire wire, const char* list, std::vector<transform::Column>& columns) {
    if (++features_ > limits_.features) throw InputError(too_many_features(limits_, "context and candidates"));
    Place place{.list = list, .index = columns.size()};
    Values values;
    ArenaList<int32_t> lengths;
    each_field(wire, [&](uint32_t tag) {
      switch (tag) {
        case bytes_tag(Feature::kNameFieldNumber):
          place.name = wire.bytes();
          check_text(place.name, place, "name");
          return true;
        case bytes_tag(Feature::kFloatsFieldNumber):
          numbers<v1::Floats>(Wire(wire.bytes()), member<float>(values));
          return true;
        case bytes_tag(Feature::kDoublesFieldNumber):
          numbers<v1::Doubles>(Wire(wire.bytes()), member<double>(values));
          return true;
        case bytes_tag(Feature::kIntsFieldNumber):
          numbers<v1::Ints>(Wire(wire.bytes()), member<int64_t>(values));
          return true;
        case bytes_tag(Feature::kStringsFieldNumber):
          strings(Wire(wire.bytes()), place, member<std::string_view>(values));
          return true;
        default:
          return number<Feature::kLengthsFieldNumber>(tag, wire, lengths);
      }
    });
    columns.push_back({.name = place.name, .values = {}, .lengths = lengths.values()});
    std::visit(
        [&](const auto& held) {
          if constexpr (std::is_same_v<decltype(held), const std::monostate&>) {
            if (!out_.valueless) out_.valueless = place.name;
          } else {
            columns.back().values = held.values();
          }
        },
        values);
  }

  template <typename Message, typename T>
  void numbers(Wire wire, ArenaList<T>& out) {
    each_field(wire, [&](uint32_t tag) { return number<Message::kValuesFieldNumber>(tag, wire, out); });
  }

  // A repeated number of fixed width: a packed run of them, or one.
  template <int kField, typename T>
  bool number(uint32_t tag, Wire& wire, ArenaList<T>& out) {
    std::string_view run;
    if (tag == bytes_tag(kField)) {
      run = wire.bytes();
    } else if (tag == wire_tag(kField, sizeof(T) == 8 ? WireType::kFixed64 : WireType::kFixed32)) {
      run = wire.raw(sizeof(T));
    } else {
      return false;
    }
    if (run.size() % sizeof(T) != 0) throw WireDamage();
    if (!run.empty()) std::memcpy(out.add(run.size() / sizeof(T), memory_), run.data(), run.size());
    return true;
  }

  void strings(Wire wire, const Place& place, ArenaList<std::string_view>& out) {
    each_field(wire, [&](uint32_t tag) {
      if (tag != bytes_tag(v1::Strings::kValuesFieldNumber)) return false;
      const std::string_view value = text(wire, place, "strings.values", out.values().size());
      *out.add(1, memory_) = value;
      return true;
    });
  }

  static constexpr size_t kSingular = SIZE_MAX;

  static std::string_view text(Wire& wire, const Place& place, const char* field, size_t index = kSingular) {
    const std::string_view out = wire.bytes();
    check_text(out, place, field, index);
    return out;
  }

  static void check_text(std::string_view text, const Place& place, const char* field, size_t index = kSingular) {
    if (transform::valid_utf8(text)) return;
    throw InputError(place.text() + field + (index == kSingular ? "" : "[" + std::to_string(index) + "]") + ": found " +
                     quote(text) + "; expected UTF-8");
  }

  const WireLimits limits_;
  ArenaPieces memory_;
  int64_t fields_ = 0;
  int64_t features_ = 0;
  PredictFields out_;
};

InputError not_a(const google::protobuf::Descriptor* message, const WireDamage& damage) {
  return InputError("the message is not a " + message->full_name() + ": " + damage.what());
}

}  // namespace

void PredictFields::check_values() const {
  if (!valueless) return;
  throw InputError("feature " + quote(*valueless) +
                   ": no values set; expected one of floats, doubles, ints or strings");
}

PredictFields read_predict(std::string_view message, const WireLimits& limits, Arena& arena) {
  try {
    return Reader(limits, arena, message.size()).predict(Wire(message));
  } catch (const WireDamage& damage) {
    throw not_a(v1::PredictRequest::descriptor(), damage);
  }
}

PredictFields read_multi_predict(std::string_view message, const WireLimits& limits, Arena& arena) {
  try {
    return Reader(limits, arena, message.size()).multi_predict(Wire(message));
  } catch (const WireDamage& damage) {
    throw not_a(v1::MultiPredictRequest::descriptor(), damage);
  }
}

}  // namespace smt::server
