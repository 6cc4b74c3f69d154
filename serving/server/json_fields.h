// JSON from the registry, read field by field: every access checks presence, type and range, and every error says
// "FILE: field 'a.b.c': found X; expected Y". Throws Refused(kManifest).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace smt::server {

// transform::parse_json() of a whole file.
nlohmann::json parse_json(std::string_view text, const std::string& file);

// One JSON object inside a document. A view: the document must outlive it.
class Fields {
 public:
  // `path` is the position in the document ("" at the top).
  Fields(const nlohmann::json& value, std::string file, std::string path = "");

  bool has(const std::string& key) const { return value_.contains(key); }
  std::string text(const std::string& key, size_t max_bytes = 256) const;
  std::string name(const std::string& key) const;                // [a-z0-9_-]{1,64}
  std::string version(const std::string& key) const;             // [A-Za-z0-9_-]{1,64}
  std::string hex(const std::string& key, size_t digits) const;  // lower case
  int64_t integer(const std::string& key, int64_t low, int64_t high) const;
  Fields object(const std::string& key) const;
  const nlohmann::json& array(const std::string& key, size_t max_size) const;
  const nlohmann::json& value(const std::string& key) const;

  std::string path_of(const std::string& key) const;
  // Throws the standard error for `key`. `found` is the offending value (null pointer: absent).
  [[noreturn]] void fail(const std::string& key, const nlohmann::json* found, const std::string& expected) const;
  const std::string& file() const { return file_; }

 private:
  const nlohmann::json& value_;
  std::string file_;
  std::string path_;
};

// A short rendering of any value for messages: type and, if small, the value.
std::string shown(const nlohmann::json& value);

}  // namespace smt::server
