#include "log.h"

#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace smt::server::log {
namespace {

// Read by every thread, written at start-up and by SetLogLevel; relaxed is enough since no other memory depends on it.
std::atomic<Level> g_level{Level::kInfo};

constexpr std::string_view kNames[] = {"debug", "info", "warn", "error"};

std::string utc_now() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm parts{};
  gmtime_r(&now.tv_sec, &parts);
  char text[32];
  size_t length = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  snprintf(text + length, sizeof text - length, ".%03ldZ", now.tv_nsec / 1'000'000);
  return text;
}

void write_line(Level level, std::string_view event, Fields fields) {
  nlohmann::ordered_json line;
  line["time"] = utc_now();
  line["level"] = level_name(level);
  line["event"] = event;
  for (const Field& field : fields) {
    std::visit([&](const auto& value) { line[std::string(field.key)] = value; }, field.value);
  }
  // In ASCII: clients choose some of the text, and there are readers that take U+2028 for the end of a line, and
  // terminals that obey U+009B.
  std::string text = line.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  text.push_back('\n');
  const char* at = text.data();
  size_t left = text.size();
  while (left > 0) {
    ssize_t written = ::write(STDERR_FILENO, at, left);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;  // nobody reads stderr: nowhere to report that
    at += written;
    left -= static_cast<size_t>(written);
  }
}

}  // namespace

std::optional<Level> parse_level(std::string_view name) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == name) return static_cast<Level>(i);
  }
  return std::nullopt;
}

void set_level(Level level) { g_level.store(level, std::memory_order_relaxed); }

Level level() { return g_level.load(std::memory_order_relaxed); }

std::string_view level_name(Level level) { return kNames[static_cast<size_t>(level)]; }

bool enabled(Level level) { return level >= g_level.load(std::memory_order_relaxed); }

void write(Level level, std::string_view event, Fields fields) {
  if (enabled(level)) write_line(level, event, fields);
}

void audit(std::string_view event, Fields fields) { write_line(Level::kInfo, event, fields); }

}  // namespace smt::server::log
