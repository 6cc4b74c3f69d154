// Strict, typed access to one object of a FeatureSpec: every problem becomes a SpecError that names the place.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace smt::transform {

// parse_json() of a whole spec; throws SpecError.
nlohmann::json parse_spec(std::string_view text);

class JsonObject {
 public:
  // `where` starts every message, for example "feature 'age': encode". `json` must outlive this.
  JsonObject(const nlohmann::json& json, std::string where);

  // Throws for keys outside `allowed`.
  void only(std::initializer_list<std::string_view> allowed) const;

  bool has(const char* key) const;  // present and not null
  const nlohmann::json& at(const char* key) const;
  const nlohmann::json& array(const char* key) const;
  JsonObject object(const char* key) const;
  std::string string(const char* key) const;  // not empty
  // One of `allowed`.
  std::string choice(const char* key, std::initializer_list<std::string_view> allowed) const;
  bool boolean(const char* key) const;
  double number(const char* key) const;  // finite
  int64_t integer(const char* key, int64_t low, int64_t high) const;
  uint64_t seed(const char* key) const;

  // Throws SpecError "WHERE: KEY: found FOUND; expected EXPECTED".
  [[noreturn]] void fail(std::string_view key, std::string_view found, std::string_view expected) const;

 private:
  const nlohmann::json& json_;
  std::string where_;
};

// A short form of a JSON value for messages.
std::string describe(const nlohmann::json& value);

// The value as int64, or false when it is not an integer of that range.
bool as_int64(const nlohmann::json& value, int64_t& out);
// The value as a finite double, or false.
bool as_double(const nlohmann::json& value, double& out);

}  // namespace smt::transform
