#include "plan.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace smt::loadgen {
namespace {

using nlohmann::json;

constexpr double kMaxSeconds = 1e6;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One object of the plan. Every access checks presence, type and range.
class Object {
 public:
  Object(const json& value, std::string path) : value_(value), path_(std::move(path)) {
    if (!value_.is_object()) fail("", value_, "an object");
  }

  double number(const char* key, double low, double high) const {
    const json& found = at(key);
    double value = found.is_number() ? found.get<double>() : std::nan("");
    if (!(value >= low && value <= high)) {
      fail(key, found, "a number from " + json(low).dump() + (high == kInfinity ? "" : " to " + json(high).dump()));
    }
    return value;
  }
  Nanos span(const char* key) const { return std::llround(number(key, 0, kMaxSeconds) * kSecond); }
  template <typename T>
  T integer(const char* key, int64_t low, int64_t high) const {
    const json& found = at(key);
    int64_t value = found.is_number_integer() ? found.get<int64_t>() : low - 1;
    if (value < low || value > high) {
      fail(key, found, "an integer from " + std::to_string(low) + " to " + std::to_string(high));
    }
    return static_cast<T>(value);
  }
  std::string text(const char* key) const {
    const json& found = at(key);
    if (!found.is_string()) fail(key, found, "a string");
    return found.get<std::string>();
  }
  const json& list(const char* key, size_t least) const {
    const json& found = at(key);
    if (!found.is_array() || found.size() < least) {
      fail(key, found, least == 0 ? "a list" : "a list that is not empty");
    }
    return found;
  }
  Object object(const char* key) const { return {at(key), path_of(key)}; }
  const json& at(const char* key) const {
    auto found = value_.find(key);
    if (found == value_.end()) throw PlanError("plan: " + path_of(key) + ": missing");
    return *found;
  }
  bool has(const char* key) const { return value_.contains(key); }
  std::string path_of(const std::string& key) const {
    return path_.empty() || key.empty() ? path_ + key : path_ + "." + key;
  }
  [[noreturn]] void fail(const std::string& key, const json& found, const std::string& expected) const {
    std::string shown = found.is_structured() ? found.type_name() : found.dump();
    std::string where = path_of(key);
    throw PlanError("plan: " + (where.empty() ? "" : where + ": ") + "found " + shown + "; expected " + expected);
  }

 private:
  const json& value_;
  std::string path_;
};

std::string item(const std::string& path, size_t i) { return path + "[" + std::to_string(i) + "]"; }

Stream parse_stream(const Object& from, size_t payloads) {
  Stream stream;
  stream.name = from.text("name");
  stream.weight = from.number("weight", 0, kInfinity);
  stream.path = from.text("path");
  if (!stream.path.starts_with('/')) from.fail("path", from.at("path"), "/package.Service/Method");
  for (const auto& [name, value] : from.at("headers").items()) {
    if (!value.is_string()) from.fail("headers." + name, value, "a string");
    stream.headers.emplace_back(name, value.get<std::string>());
  }
  auto known = static_cast<int64_t>(payloads);
  stream.first_payload = from.integer<uint32_t>("first_payload", 0, known - 1);
  stream.payload_count = from.integer<uint32_t>("payload_count", 1, known - stream.first_payload);
  const json& timeouts = from.list("timeouts", 0);
  for (size_t i = 0; i < timeouts.size(); ++i) {
    Object one(timeouts[i], item(from.path_of("timeouts"), i));
    stream.timeouts.push_back({one.span("seconds"), one.number("weight", 0, kInfinity)});
  }
  stream.linger = from.span("linger_seconds");
  stream.cancel_fraction = from.number("cancel_fraction", 0, 1);
  stream.cancel_from = from.span("cancel_from_seconds");
  stream.cancel_to = from.span("cancel_to_seconds");
  if (stream.cancel_to < stream.cancel_from) {
    from.fail("cancel_to_seconds", from.at("cancel_to_seconds"), "at least cancel_from_seconds");
  }
  stream.min_response_bytes = from.integer<uint64_t>("min_response_bytes", 0, INT64_MAX);
  return stream;
}

Source parse_source(const Object& from, Plan& plan, size_t payloads) {
  Source source;
  std::string mode = from.text("mode");
  if (mode == "closed") {
    source.mode = Mode::kClosed;
    source.callers = from.integer<int>("callers", 1, 1 << 20);
    source.think = from.span("think_seconds");
  } else if (mode == "poisson" || mode == "fixed") {
    source.mode = mode == "poisson" ? Mode::kPoisson : Mode::kFixed;
    source.rate = from.number("rate", 1e-3, 1e8);
  } else if (mode == "replay") {
    source.mode = Mode::kReplay;
    source.arrivals = from.text("arrivals");
  } else {
    from.fail("mode", from.at("mode"), "closed, poisson, fixed or replay");
  }
  source.first_stream = static_cast<uint32_t>(plan.streams.size());
  const json& streams = from.list("streams", 1);
  source.stream_count = static_cast<uint32_t>(streams.size());
  double weights = 0;
  for (size_t i = 0; i < streams.size(); ++i) {
    plan.streams.push_back(parse_stream({streams[i], item(from.path_of("streams"), i)}, payloads));
    weights += plan.streams.back().weight;
  }
  if (weights <= 0 && source.mode != Mode::kReplay) from.fail("streams", streams, "weights that are not all 0");
  return source;
}

}  // namespace

Plan parse_plan(const std::string& text, size_t payloads) {
  json document;
  try {
    document = json::parse(text);
  } catch (const json::exception& error) {
    throw PlanError(std::string("plan: ") + error.what());
  }
  Object top(document, "");
  Plan plan;
  const json& targets = top.list("targets", 1);
  for (size_t i = 0; i < targets.size(); ++i) {
    if (!targets[i].is_string()) top.fail(item("targets", i), targets[i], "host:port");
    plan.targets.push_back(targets[i].get<std::string>());
  }
  plan.threads = top.integer<int>("threads", 1, 1024);
  plan.connections = top.integer<int>("connections", plan.threads, 1 << 16);
  plan.warm_up = top.span("warm_up_seconds");
  plan.measured = top.span("seconds");
  plan.drain = top.span("drain_seconds");
  plan.seed = top.integer<uint64_t>("seed", 0, INT64_MAX);
  plan.max_outstanding = top.integer<int64_t>("max_outstanding", 1, 1 << 30);
  plan.disconnects = top.number("disconnects_per_second", 0, 1e6);
  if (top.has("answers")) plan.answers = top.text("answers");
  if (top.has("tls")) {
    Object tls = top.object("tls");
    plan.use_tls = true;
    plan.tls = {tls.text("ca"), tls.text("cert"), tls.text("key"), tls.text("server_name")};
    if (plan.tls.cert.empty() != plan.tls.key.empty()) tls.fail("key", tls.at("key"), "a file for both cert and key");
  }
  const json& sources = top.list("sources", 1);
  for (size_t i = 0; i < sources.size(); ++i) {
    plan.sources.push_back(parse_source({sources[i], item("sources", i)}, plan, payloads));
  }
  return plan;
}

}  // namespace smt::loadgen
