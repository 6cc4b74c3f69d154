// FeatureSpec JSON -> Model. Strict: a spec is written by a machine, so anything odd in it is a fault to report.
#include <map>
#include <set>
#include <string>
#include <utility>

#include "json_object.h"
#include "messages.h"
#include "model.h"

namespace smt::transform {
namespace {

using nlohmann::json;

constexpr int64_t kFormat = 1;
constexpr int64_t kMaxSlots = 1 << 16;
constexpr int64_t kMaxRows = int64_t{1} << 40;
constexpr int64_t kMaxListLength = int64_t{1} << 31;

InputType parse_type(const std::string& name) {
  if (name == "number") return InputType::kNumber;
  return name == "int" ? InputType::kInt : InputType::kString;
}

Step parse_step(const JsonObject& object) {
  const std::string op = object.choice("op", {"log", "clip", "normalise"});
  if (op == "log") {
    object.only({"op"});
    return {Step::Op::kLog};
  }
  if (op == "clip") {
    object.only({"op", "low", "high"});
    const Step step = {Step::Op::kClip, object.number("low"), object.number("high")};
    if (step.first > step.second) object.fail("low", describe(object.at("low")), "at most high");
    return step;
  }
  object.only({"op", "mean", "std"});
  const Step step = {Step::Op::kNormalise, object.number("mean"), object.number("std")};
  if (step.second <= 0) object.fail("std", describe(object.at("std")), "a number above 0");
  return step;
}

// "encode": {"op": "vocabulary", "values": [...]}
Encoder parse_vocabulary(const JsonObject& object, InputType type) {
  object.only({"op", "values"});
  const json& values = object.array("values");
  if (values.size() > kMaxVocabulary) {
    object.fail("values", std::to_string(values.size()) + " values", "at most " + std::to_string(kMaxVocabulary));
  }
  const auto place = [](size_t i) { return "values[" + std::to_string(i) + "]"; };
  if (type == InputType::kString) {
    StringTable table(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      if (!values[i].is_string()) object.fail(place(i), describe(values[i]), "a string, as the type of the feature");
      if (!table.insert(values[i].get_ref<const std::string&>())) {
        object.fail(place(i), describe(values[i]) + " again", "distinct values");
      }
    }
    return StringVocabulary{std::move(table)};
  }
  IntTable table(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    int64_t value = 0;
    if (!as_int64(values[i], value)) {
      object.fail(place(i), describe(values[i]), "an int (64 bit), as the type of the feature");
    }
    if (!table.insert(value)) object.fail(place(i), describe(values[i]) + " again", "distinct values");
  }
  return IntVocabulary{std::move(table)};
}

Encoder parse_buckets(const JsonObject& object) {
  object.only({"op", "boundaries"});
  Buckets buckets;
  const json& boundaries = object.array("boundaries");
  for (size_t i = 0; i < boundaries.size(); ++i) {
    const std::string place = "boundaries[" + std::to_string(i) + "]";
    double value = 0;
    if (!as_double(boundaries[i], value)) object.fail(place, describe(boundaries[i]), "a finite number");
    if (i > 0 && value <= buckets.boundaries.back()) {
      object.fail(place, describe(boundaries[i]), "strictly increasing numbers");
    }
    buckets.boundaries.push_back(value);
  }
  return buckets;
}

// The encoder and the number of values, buckets or hash rows behind it.
std::pair<Encoder, int64_t> parse_encoder(const JsonObject& object, InputType type) {
  const bool number = type == InputType::kNumber;
  const std::string op = object.choice("op", {"vocabulary", "bucketise", "hash"});
  if (op == "bucketise") {
    if (type == InputType::kString) object.fail("op", "'bucketise' of strings", "type number or int");
    Encoder encoder = parse_buckets(object);
    const auto size = static_cast<int64_t>(std::get<Buckets>(encoder).boundaries.size()) + 1;
    return {std::move(encoder), size};
  }
  if (number) object.fail("op", quote(op) + " of type number", "type int or string, or op bucketise");
  if (op == "vocabulary") {
    const auto size = static_cast<int64_t>(object.array("values").size());
    return {parse_vocabulary(object, type), size};
  }
  object.only({"op", "size", "seed"});
  const int64_t size = object.integer("size", 1, kMaxRows);
  const uint64_t seed = object.has("seed") ? object.seed("seed") : 0;
  return {HashBuckets{static_cast<uint64_t>(size), seed}, size};
}

class Parser {
 public:
  Model parse(std::string_view text) {
    const json document = parse_spec(text);
    const JsonObject root(document, "feature spec");
    root.only({"format", "dense_slots", "categorical_slots", "table_rows", "features"});
    root.integer("format", kFormat, kFormat);
    model_.dense_slots = root.integer("dense_slots", 0, kMaxSlots);
    model_.categorical_slots = root.integer("categorical_slots", 0, kMaxSlots);
    const json& features = root.array("features");
    if (features.empty()) root.fail("features", "none", "at least one");
    for (size_t i = 0; i < features.size(); ++i) parse_feature(features[i], i);
    root.integer("table_rows", model_.table_rows, model_.table_rows);

    model_.input_positions = StringTable(model_.inputs.size());
    for (const Input& input : model_.inputs) model_.input_positions.insert(input.name);
    return std::move(model_);
  }

 private:
  void parse_feature(const json& node, size_t position) {
    const JsonObject unnamed(node, "features[" + std::to_string(position) + "]");
    const std::string name = unnamed.string("name");
    const JsonObject object(node, feature(name));
    if (!names_.insert(name).second) object.fail("name", "it twice", "one feature of each name");
    const InputType type = parse_type(object.choice("type", {"number", "int", "string"}));
    const bool dense = object.choice("kind", {"dense", "categorical"}) == "dense";
    const bool multi_valued = !dense && object.has("multi_valued") && object.boolean("multi_valued");
    const size_t input = add_input(object, type, multi_valued);
    if (dense) {
      parse_dense(object, input, type);
    } else {
      parse_categorical(object, input, type, multi_valued);
    }
  }

  // Several features may read one input; their types must agree, where int is the strict form of number.
  size_t add_input(const JsonObject& object, InputType type, bool multi_valued) {
    std::string name = object.string("input");
    const bool required = object.boolean("required");
    const auto [entry, is_new] = positions_.try_emplace(name, model_.inputs.size());
    if (is_new) {
      model_.inputs.push_back({std::move(name), type, required, multi_valued});
      return entry->second;
    }
    Input& input = model_.inputs[entry->second];
    if ((input.type == InputType::kString) != (type == InputType::kString)) {
      object.fail("type", quote(type_name(type)),
                  quote(type_name(input.type)) + ", as another feature of input " + quote(input.name) + " has");
    }
    if (type == InputType::kInt) input.type = type;
    input.required = input.required || required;
    input.multi_valued = input.multi_valued && multi_valued;
    return entry->second;
  }

  int64_t parse_slot(const JsonObject& object, int64_t slots, std::set<int64_t>& used) {
    if (slots == 0)
      object.fail("slot", describe(object.at("slot")), "no such feature, the template has 0 slots for it");
    const int64_t slot = object.integer("slot", 0, slots - 1);
    if (!used.insert(slot).second) {
      object.fail("slot", std::to_string(slot) + ", which another feature has", "one feature per slot");
    }
    return slot;
  }

  void parse_dense(const JsonObject& object, size_t input, InputType type) {
    object.only({"name", "input", "type", "required", "kind", "slot", "default", "steps"});
    if (type == InputType::kString) object.fail("type", "'string' of a dense feature", "number or int");
    DenseFeature out{input, parse_slot(object, model_.dense_slots, dense_slots_), {}, 0.0f};
    const json& steps = object.array("steps");
    for (size_t i = 0; i < steps.size(); ++i) {
      out.steps.push_back(
          parse_step(JsonObject(steps[i], feature(object.string("name")) + ": steps[" + std::to_string(i) + "]")));
    }
    if (object.has("default")) {
      int64_t integer = 0;
      if (type == InputType::kInt && !as_int64(object.at("default"), integer)) {
        object.fail("default", describe(object.at("default")), "an int (64 bit), as the type of the feature");
      }
      out.missing = transform_dense(out.steps, object.number("default"));
    }
    model_.dense.push_back(std::move(out));
  }

  void parse_categorical(const JsonObject& object, size_t input, InputType type, bool multi_valued) {
    object.only({"name", "input", "type", "required", "kind", "slot", "multi_valued", "max_length", "first_row", "rows",
                 "default", "encode", "sequence"});
    const int64_t slot = parse_slot(object, model_.categorical_slots, categorical_slots_);
    int64_t max_length = 1;
    if (multi_valued) {
      max_length = object.integer("max_length", 1, kMaxListLength);
    } else if (object.has("max_length")) {
      object.integer("max_length", 1, 1);
    }
    auto [encoder, size] = parse_encoder(object.object("encode"), type);
    const int64_t rows = object.integer("rows", kFirstValueRow + size, kFirstValueRow + size);
    const int64_t first_row = object.integer("first_row", model_.table_rows, model_.table_rows);
    model_.table_rows += rows;
    if (model_.table_rows > kMaxRows) object.fail("rows", describe(object.at("rows")), "fewer rows in all (2^40)");
    const int64_t missing = parse_missing(object, type, multi_valued, encoder);
    model_.categorical.push_back({input, slot, first_row, multi_valued, max_length, missing, std::move(encoder)});
    if (object.has("sequence")) parse_sequence(object.object("sequence"), type);
  }

  // Of the categorical feature that was parsed last.
  void parse_sequence(const JsonObject& object, InputType type) {
    object.only({"input", "required", "slot", "length"});
    const size_t input = add_input(object, type, true);
    const int64_t length = object.integer("length", 1, model_.categorical_slots);
    const int64_t slot = object.integer("slot", 0, model_.categorical_slots - length);
    for (int64_t taken = slot; taken < slot + length; ++taken) {
      if (!categorical_slots_.insert(taken).second) {
        object.fail("slot", std::to_string(taken) + ", which another feature has", "one feature per slot");
      }
    }
    model_.sequences.push_back({input, model_.categorical.size() - 1, slot, length});
  }

  int64_t parse_missing(const JsonObject& object, InputType type, bool multi_valued, const Encoder& encoder) {
    if (!object.has("default")) return kMissingRow;
    const json& value = object.at("default");
    if (multi_valued) object.fail("default", describe(value), "null, a missing list is an empty one");
    if (type == InputType::kNumber) return encode_value(encoder, object.number("default"));
    if (type == InputType::kString) {
      if (!value.is_string()) object.fail("default", describe(value), "a string, as the type of the feature");
      return encode_value(encoder, std::string_view(value.get_ref<const std::string&>()));
    }
    int64_t integer = 0;
    if (!as_int64(value, integer)) {
      object.fail("default", describe(value), "an int (64 bit), as the type of the feature");
    }
    return encode_value(encoder, integer);
  }

  Model model_;
  std::set<std::string> names_;
  std::map<std::string, size_t> positions_;
  std::set<int64_t> dense_slots_;
  std::set<int64_t> categorical_slots_;
};

}  // namespace

Model parse_model(std::string_view json) { return Parser().parse(json); }

}  // namespace smt::transform
