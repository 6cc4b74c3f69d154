#include "pointers.h"

#include <gtest/gtest.h>

#include "registry_builder.h"

namespace smt::server {
namespace {

class PointerReaderTest : public ::testing::Test {
 protected:
  std::string current() { return reader_.read("a").current.value.value_or(""); }
  void label(const char* name, const std::string& text) {
    write_file(builder_.root() / "scenarios/a/labels" / name, text);
  }
  RegistryBuilder builder_;
  Registry registry_{builder_.root()};
  PointerReader reader_{registry_};
};

TEST_F(PointerReaderTest, ReadsTheLabels) {
  EXPECT_FALSE(reader_.read("a").canary.value);
  builder_.point("a", "v1");
  label("canary", R"({"version": "v2", "percent": 2.5, "set_by": "me"})");
  const Pointers& pointers = reader_.read("a");
  EXPECT_EQ(pointers.current.value, "v1");
  EXPECT_EQ(pointers.canary.value, (Label{.version = "v2", .percent = 2.5}));
  std::filesystem::remove(registry_.label_file("a", kCanary));
  EXPECT_FALSE(reader_.read("a").canary.value);
}

TEST_F(PointerReaderTest, ALabelThatIsNoneNamesTheFileAndTheField) {
  for (const char* text : {"", "v2", "{}", R"({"version": "v2"})", R"({"version": "v2", "percent": 0})",
                           R"({"version": "v2", "percent": 100.5})", R"({"version": "v2", "percent": "5"})",
                           R"({"version": "../v2", "percent": 5})", R"({"version": 2, "percent": 5})"}) {
    label("canary", text);
    const Pointer<Label>& canary = reader_.read("a").canary;
    ASSERT_TRUE(canary.error) << text;
    EXPECT_EQ(canary.error->reason(), Reason::kPointer);
    EXPECT_NE(std::string(canary.error->what()).find("scenarios/a/labels/canary"), std::string::npos);
  }
}

// Files that were just written are read again: they may change within a tick of the clock.
TEST_F(PointerReaderTest, SeesEveryOfManyChangesInARow) {
  for (int i = 0; i < 2000; ++i) {
    const std::string version = i % 2 == 0 ? "v1" : "v2";
    builder_.point("a", version);
    ASSERT_EQ(current(), version) << i;
  }
}

// Once a file is old enough, its stamps decide alone.
TEST_F(PointerReaderTest, SeesWhatWasReplacedAfterARest) {
  PointerReader trusting(registry_, std::chrono::seconds(0));
  auto current = [&] { return trusting.read("a").current.value.value_or(""); };
  builder_.point("a", "v1");
  EXPECT_EQ(current(), "v1");
  EXPECT_EQ(current(), "v1");
  builder_.point("a", "v20");
  EXPECT_EQ(current(), "v20");
  std::filesystem::remove(registry_.current_file("a"));
  EXPECT_EQ(current(), "");
  label("canary", R"({"version": "v2", "percent": 5})");
  EXPECT_TRUE(trusting.read("a").canary.value);
}

}  // namespace
}  // namespace smt::server
