#include "scheduling_config.h"

#include <gtest/gtest.h>

#include "refused_by.h"
#include "temporary_folder.h"

namespace smt::server {
namespace {

SchedulingConfig parse(const std::string& json) { return parse_scheduling(json, "s.json"); }

std::string refusal(const std::string& json) {
  return refused_by([&] { parse(json); }).message;
}

TEST(SchedulingConfig, EverythingIsOptional) {
  SchedulingConfig config = parse("{}");
  EXPECT_EQ(config.fallback.weight, 1);
  EXPECT_EQ(config.fallback.queue_requests, 1024);
  EXPECT_EQ(config.fallback.rows_per_second, 0);
  EXPECT_TRUE(config.scenarios.empty());
}

TEST(SchedulingConfig, ScenariosTakeFromTheDefault) {
  SchedulingConfig config = parse(
      R"({"scenarios": {"feed": {"weight": 2.5, "priority": -1}, "mail": {}},
          "default": {"queue_ms": 40, "queue_requests": 7, "rows_per_second": 1e4, "priority": 3}})");
  EXPECT_EQ(config.scenarios.at("feed").weight, 2.5);
  EXPECT_EQ(config.scenarios.at("feed").priority, -1);
  EXPECT_EQ(config.scenarios.at("feed").queue_ms, 40);
  EXPECT_EQ(config.scenarios.at("mail").priority, 3);
  EXPECT_EQ(config.scenarios.at("mail").queue_requests, 7);
  EXPECT_EQ(config.scenarios.at("mail").rows_per_second, 1e4);
}

TEST(SchedulingConfig, SaysWhatIsWrong) {
  EXPECT_EQ(refusal(R"({"default": {"wieght": 1}})"),
            "s.json: field 'default.wieght': unknown; expected one of: weight, priority, queue_requests, queue_ms, "
            "rows_per_second");
  EXPECT_EQ(refusal(R"({"scenario": {}})"), "s.json: field 'scenario': unknown; expected one of: default, scenarios");
  EXPECT_EQ(refusal(R"({"scenarios": {"feed": {"weight": 0}}})"),
            "s.json: field 'scenarios.feed.weight': found 0; expected a number 0.001..1000000");
  EXPECT_EQ(refusal(R"({"scenarios": {"feed": {"weight": "2"}}})"),
            "s.json: field 'scenarios.feed.weight': found the string '2'; expected a number 0.001..1000000");
  EXPECT_EQ(refusal(R"({"scenarios": {"Feed": {}}})"),
            "s.json: field 'scenarios': found 'Feed'; expected names of 1..64 characters a-z 0-9 _ -");
  EXPECT_EQ(refusal(R"({"default": {"queue_requests": 0}})"),
            "s.json: field 'default.queue_requests': found 0; expected an integer 1..1048576");
  EXPECT_EQ(refusal(R"({"default": {"rows_per_second": -1}})"),
            "s.json: field 'default.rows_per_second': found -1; expected a number 0..1e12 (0: no quota)");
  EXPECT_EQ(refusal(R"({"scenarios": []})"), "s.json: field 'scenarios': found an array of 0; expected an object");
  EXPECT_NE(refusal("{").find("s.json"), std::string::npos);
}

TEST(SchedulingFile, IsReadAgainWhenItChanges) {
  TemporaryFolder folder;
  auto path = folder.path() / "s.json";
  write_atomically(path, R"({"default": {"weight": 2}})");
  SchedulingFile file(path);
  EXPECT_EQ(file.read().fallback.weight, 2);
  EXPECT_FALSE(file.changed());
  write_atomically(path, R"({"default": {"weight": 3}})");
  EXPECT_TRUE(file.changed());
  EXPECT_EQ(file.read().fallback.weight, 3);
  EXPECT_FALSE(file.changed());
}

TEST(SchedulingFile, WithoutAPathThereAreTheDefaults) {
  SchedulingFile file("");
  EXPECT_EQ(file.read().fallback.weight, 1);
  EXPECT_FALSE(file.changed());
}

}  // namespace
}  // namespace smt::server
