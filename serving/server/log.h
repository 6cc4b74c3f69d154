// Structured log: one JSON object per line on stderr: {"time", "level", "event", ...fields}.
// Thread-safe: a line is formatted by its caller and written with a single write(2), so lines never interleave.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace smt::server::log {

enum class Level { kDebug, kInfo, kWarn, kError };

// "debug", "info", "warn" or "error"; anything else: nullopt.
std::optional<Level> parse_level(std::string_view name);

// Lines below `level` are dropped. Default: info.
void set_level(Level level);
Level level();
std::string_view level_name(Level level);  // as parse_level() takes it
bool enabled(Level level);

struct Field {
  std::string_view key;
  std::variant<int64_t, double, bool, std::string> value;

  Field(std::string_view k, std::string_view v) : key(k), value(std::string(v)) {}
  Field(std::string_view k, const char* v) : key(k), value(std::string(v)) {}
  Field(std::string_view k, const std::string& v) : key(k), value(v) {}
  Field(std::string_view k, bool v) : key(k), value(v) {}
  Field(std::string_view k, double v) : key(k), value(v) {}
  template <typename T>
  requires(std::is_integral_v<T> && !std::is_same_v<T, bool>) Field(std::string_view k, T v)
      : key(k), value(static_cast<int64_t>(v)) {}
};

using Fields = std::initializer_list<Field>;

// `event` is a fixed snake_case word, what changes goes into fields. Text that is not UTF-8 is replaced; lines are
// ASCII.
void write(Level level, std::string_view event, Fields fields);
// At level info, and written whatever the least level is: who asked the server for what.
void audit(std::string_view event, Fields fields);

inline void debug(std::string_view event, Fields fields = {}) { write(Level::kDebug, event, fields); }
inline void info(std::string_view event, Fields fields = {}) { write(Level::kInfo, event, fields); }
inline void warn(std::string_view event, Fields fields = {}) { write(Level::kWarn, event, fields); }
inline void error(std::string_view event, Fields fields = {}) { write(Level::kError, event, fields); }

}  // namespace smt::server::log
