#include "plan.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace smt::loadgen {
namespace {

using nlohmann::json;

json good_plan() {
  return json::parse(R"({
    "targets": ["127.0.0.1:1"], "connections": 3, "threads": 2, "warm_up_seconds": 0.5, "seconds": 2.5,
    "drain_seconds": 1, "seed": 7, "max_outstanding": 100, "disconnects_per_second": 0.5,
    "tls": {"ca": "a", "cert": "", "key": "", "server_name": "n"},
    "sources": [
      {"mode": "closed", "callers": 4, "think_seconds": 0.25, "streams": [
        {"name": "x", "weight": 1, "path": "/s/m", "headers": {"a": "b"}, "first_payload": 1, "payload_count": 2,
         "timeouts": [{"seconds": 0.0015, "weight": 1}, {"seconds": 150, "weight": 1}, {"seconds": 200000, "weight": 1}],
         "linger_seconds": 1, "cancel_fraction": 0.5, "cancel_from_seconds": 0, "cancel_to_seconds": 0.001,
         "min_response_bytes": 0}]}]})");
}

// A plan with one value replaced; null: left out.
json changed(const char* pointer, json value) {
  json plan = good_plan();
  json::json_pointer where(pointer);
  if (value.is_null()) {
    plan.at(where.parent_pointer()).erase(where.back());
  } else {
    plan[where] = std::move(value);
  }
  return plan;
}

std::string refused(const json& plan) {
  try {
    parse_plan(plan.dump(), 3);
  } catch (const PlanError& error) {
    return error.what();
  }
  return "";
}

TEST(Plan, SaysWhatTheFileSays) {
  Plan plan = parse_plan(good_plan().dump(), 3);
  EXPECT_EQ(plan.length(), 3 * kSecond);
  EXPECT_EQ(plan.connections, 3);
  EXPECT_TRUE(plan.use_tls);
  EXPECT_EQ(plan.tls.server_name, "n");
  ASSERT_EQ(plan.streams.size(), 1U);
  const Stream& stream = plan.streams[0];
  EXPECT_EQ(stream.first_payload, 1U);
  EXPECT_EQ(stream.linger, kSecond);
  EXPECT_EQ(stream.cancel_to, kSecond / 1000);
  ASSERT_EQ(stream.timeouts.size(), 3U);
  EXPECT_EQ(stream.timeouts[0].after, kSecond * 15 / 10'000);
  EXPECT_EQ(plan.sources[0].think, kSecond / 4);
}

TEST(Plan, MistakesNameTheFieldAndWhatIsExpected) {
  const char* kStream = "/sources/0/streams/0";
  struct Case {
    std::string pointer;
    json value;
    std::string expected;
  };
  std::vector<Case> cases{
      {"/targets", json::array(), "plan: targets: found array; expected a list that is not empty"},
      {"/targets/0", 1, "plan: targets[0]: found 1; expected host:port"},
      {"/seconds", nullptr, "plan: seconds: missing"},
      {"/seconds", -1, "plan: seconds: found -1; expected a number from 0.0 to 1000000.0"},
      {"/seconds", "1", "plan: seconds: found \"1\"; expected a number"},
      {"/connections", 1, "plan: connections: found 1; expected an integer from 2 to 65536"},
      {"/threads", 1.5, "plan: threads: found 1.5; expected an integer from 1 to 1024"},
      {"/tls/cert", "c", "plan: tls.key: found \"\"; expected a file for both cert and key"},
      {"/sources/0/mode", "open", "plan: sources[0].mode: found \"open\"; expected closed, poisson, fixed or replay"},
      {"/sources/0/callers", 0, "plan: sources[0].callers: found 0; expected an integer from 1"},
      {std::string(kStream) + "/path", "s/m", "streams[0].path: found \"s/m\"; expected /package.Service/Method"},
      {std::string(kStream) + "/headers/a", 1, "streams[0].headers.a: found 1; expected a string"},
      {std::string(kStream) + "/first_payload", 3,
       "streams[0].first_payload: found 3; expected an integer from 0 to 2"},
      {std::string(kStream) + "/payload_count", 3,
       "streams[0].payload_count: found 3; expected an integer from 1 to 2"},
      {std::string(kStream) + "/weight", 0,
       "plan: sources[0].streams: found array; expected weights that are not all 0"},
      {std::string(kStream) + "/timeouts/1", 3, "streams[0].timeouts[1]: found 3; expected an object"},
      {std::string(kStream) + "/cancel_fraction", 1.1, "streams[0].cancel_fraction: found 1.1; expected a number"},
      {std::string(kStream) + "/cancel_from_seconds", 1,
       "cancel_to_seconds: found 0.001; expected at least cancel_from"},
  };
  for (const Case& one : cases) {
    std::string found = refused(changed(one.pointer.c_str(), one.value));
    EXPECT_NE(found.find(one.expected), std::string::npos) << one.pointer << ": " << found;
  }
  EXPECT_EQ(refused(json::array()), "plan: found array; expected an object");
  EXPECT_THROW(parse_plan("{", 1), PlanError);
}

}  // namespace
}  // namespace smt::loadgen
