#include "json_fields.h"

#include "json_text.h"
#include "names.h"
#include "refusal.h"

namespace smt::server {

nlohmann::json parse_json(std::string_view text, const std::string& file) {
  try {
    return transform::parse_json(text);
  } catch (const transform::JsonError& error) {
    throw Refused(Reason::kManifest, file + ": " + error.what());
  }
}

std::string shown(const nlohmann::json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array of " + std::to_string(value.size());
  if (value.is_string()) return "the string " + quote(value.get_ref<const std::string&>());
  return value.dump();
}

Fields::Fields(const nlohmann::json& value, std::string file, std::string path)
    : value_(value), file_(std::move(file)), path_(std::move(path)) {
  if (value_.is_object()) return;
  std::string at = path_.empty() ? file_ : file_ + ": field '" + path_ + "'";
  throw Refused(Reason::kManifest, at + ": found " + shown(value_) + "; expected an object");
}

std::string Fields::path_of(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }

void Fields::fail(const std::string& key, const nlohmann::json* found, const std::string& expected) const {
  throw Refused(Reason::kManifest, file_ + ": field '" + path_of(key) +
                                       "': " + (found == nullptr ? "missing" : "found " + shown(*found)) +
                                       "; expected " + expected);
}

const nlohmann::json& Fields::value(const std::string& key) const {
  auto it = value_.find(key);
  if (it == value_.end()) fail(key, nullptr, "a value");
  return *it;
}

std::string Fields::text(const std::string& key, size_t max_bytes) const {
  auto it = value_.find(key);
  std::string expected = "a string of 1.." + std::to_string(max_bytes) + " bytes";
  if (it == value_.end()) fail(key, nullptr, expected);
  if (!it->is_string()) fail(key, &*it, expected);
  const auto& text = it->get_ref<const std::string&>();
  if (text.empty() || text.size() > max_bytes) fail(key, &*it, expected);
  return text;
}

std::string Fields::name(const std::string& key) const {
  auto it = value_.find(key);
  constexpr const char* kExpected = "a name of 1..64 characters a-z 0-9 _ -";
  if (it == value_.end()) fail(key, nullptr, kExpected);
  if (!it->is_string() || !valid_name(it->get_ref<const std::string&>())) fail(key, &*it, kExpected);
  return it->get<std::string>();
}

std::string Fields::version(const std::string& key) const {
  auto it = value_.find(key);
  constexpr const char* kExpected = "a version of 1..64 characters A-Z a-z 0-9 _ -";
  if (it == value_.end()) fail(key, nullptr, kExpected);
  if (!it->is_string() || !valid_version(it->get_ref<const std::string&>())) fail(key, &*it, kExpected);
  return it->get<std::string>();
}

std::string Fields::hex(const std::string& key, size_t digits) const {
  auto it = value_.find(key);
  std::string expected = std::to_string(digits) + " lower-case hex digits";
  if (it == value_.end()) fail(key, nullptr, expected);
  if (!it->is_string() || !valid_hex(it->get_ref<const std::string&>(), digits)) fail(key, &*it, expected);
  return it->get<std::string>();
}

int64_t Fields::integer(const std::string& key, int64_t low, int64_t high) const {
  auto it = value_.find(key);
  std::string expected = "an integer " + std::to_string(low) + ".." + std::to_string(high);
  if (it == value_.end()) fail(key, nullptr, expected);
  if (!it->is_number_integer()) fail(key, &*it, expected);
  if (it->is_number_unsigned() && it->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) fail(key, &*it, expected);
  auto number = it->get<int64_t>();
  if (number < low || number > high) fail(key, &*it, expected);
  return number;
}

Fields Fields::object(const std::string& key) const {
  auto it = value_.find(key);
  if (it == value_.end()) fail(key, nullptr, "an object");
  return Fields(*it, file_, path_of(key));
}

const nlohmann::json& Fields::array(const std::string& key, size_t max_size) const {
  auto it = value_.find(key);
  std::string expected = "an array of at most " + std::to_string(max_size);
  if (it == value_.end()) fail(key, nullptr, expected);
  if (!it->is_array() || it->size() > max_size) fail(key, &*it, expected);
  return *it;
}

}  // namespace smt::server
