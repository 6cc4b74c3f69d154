#include "json_object.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "json_text.h"
#include "messages.h"
#include "transform.h"

namespace smt::transform {
namespace {

using nlohmann::json;

std::string join(std::initializer_list<std::string_view> names) {
  std::string out;
  for (const std::string_view name : names) {
    if (!out.empty()) out += ", ";
    out += name;
  }
  return out;
}

}  // namespace

json parse_spec(std::string_view text) {
  try {
    return parse_json(text);
  } catch (const JsonError& error) {
    throw SpecError(std::string("feature spec: ") + error.what());
  }
}

JsonObject::JsonObject(const json& json, std::string where) : json_(json), where_(std::move(where)) {
  if (!json.is_object()) throw SpecError(where_ + ": found " + describe(json) + "; expected an object");
}

void JsonObject::only(std::initializer_list<std::string_view> allowed) const {
  for (const auto& item : json_.items()) {
    if (std::find(allowed.begin(), allowed.end(), item.key()) == allowed.end()) {
      throw SpecError(where_ + ": unknown key " + quote(item.key()) + "; expected only " + join(allowed));
    }
  }
}

bool JsonObject::has(const char* key) const {
  const auto found = json_.find(key);
  return found != json_.end() && !found->is_null();
}

const json& JsonObject::at(const char* key) const {
  const auto found = json_.find(key);
  if (found == json_.end()) throw SpecError(where_ + ": " + key + ": not there; expected a value");
  return *found;
}

const json& JsonObject::array(const char* key) const {
  const json& value = at(key);
  if (!value.is_array()) fail(key, describe(value), "an array");
  return value;
}

JsonObject JsonObject::object(const char* key) const { return {at(key), where_ + ": " + key}; }

std::string JsonObject::string(const char* key) const {
  const json& value = at(key);
  if (!value.is_string() || value.get_ref<const std::string&>().empty()) {
    fail(key, describe(value), "a string that is not empty");
  }
  return value.get<std::string>();
}

std::string JsonObject::choice(const char* key, std::initializer_list<std::string_view> allowed) const {
  const json& value = at(key);
  if (!value.is_string() ||
      std::find(allowed.begin(), allowed.end(), value.get_ref<const std::string&>()) == allowed.end()) {
    fail(key, describe(value), "one of " + join(allowed));
  }
  return value.get<std::string>();
}

bool JsonObject::boolean(const char* key) const {
  const json& value = at(key);
  if (!value.is_boolean()) fail(key, describe(value), "true or false");
  return value.get<bool>();
}

double JsonObject::number(const char* key) const {
  double out = 0;
  if (!as_double(at(key), out)) fail(key, describe(at(key)), "a finite number");
  return out;
}

int64_t JsonObject::integer(const char* key, int64_t low, int64_t high) const {
  int64_t out = 0;
  if (!as_int64(at(key), out) || out < low || out > high) {
    const std::string range =
        low == high ? std::to_string(low) : "an integer in " + std::to_string(low) + ".." + std::to_string(high);
    fail(key, describe(at(key)), range);
  }
  return out;
}

uint64_t JsonObject::seed(const char* key) const {
  const json& value = at(key);
  if (!value.is_number_unsigned()) fail(key, describe(value), "an integer in 0..2^64-1");
  return value.get<uint64_t>();
}

void JsonObject::fail(std::string_view key, std::string_view found, std::string_view expected) const {
  std::string message = where_;
  message.append(": ").append(key).append(": found ").append(found).append("; expected ").append(expected);
  throw SpecError(message);
}

std::string describe(const json& value) {
  switch (value.type()) {
    case json::value_t::string:
      return quote(value.get_ref<const std::string&>());
    case json::value_t::array:
      return "an array";
    case json::value_t::object:
      return "an object";
    default:
      return value.dump();
  }
}

bool as_int64(const json& value, int64_t& out) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return false;
    out = static_cast<int64_t>(number);
    return true;
  }
  if (!value.is_number_integer()) return false;
  out = value.get<int64_t>();
  return true;
}

bool as_double(const json& value, double& out) {
  if (!value.is_number()) return false;
  out = value.get<double>();
  return std::isfinite(out);
}

}  // namespace smt::transform
