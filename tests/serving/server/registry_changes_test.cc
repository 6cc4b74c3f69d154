#include "registry_changes.h"

#include <gtest/gtest.h>

#include "temporary_folder.h"
#include "wakeup.h"

namespace smt::server {
namespace {

using Names = std::set<std::string>;
using Clock = std::chrono::steady_clock;

class RegistryChangesTest : public ::testing::Test {
 protected:
  std::filesystem::path folder(const std::string& name) const {
    std::filesystem::create_directories(root_.path() / name);
    return root_.path() / name;
  }
  // What take() says once it says something; gives up after half a minute.
  Names next() {
    Names found;
    for (const auto until = Clock::now() + std::chrono::seconds(30); found.empty() && Clock::now() < until;) {
      changes_.wait(other_.fd(), until);
      found = changes_.take();
    }
    return found;
  }

  TemporaryFolder root_;
  Wakeup other_;
  RegistryChanges changes_;
};

TEST_F(RegistryChangesTest, TellsWhereAFileWasRenamedIntoPlace) {
  for (const char* name : {"a", "b", "c"}) changes_.watch(name, folder(name));
  EXPECT_EQ(changes_.take(), Names{});
  write_file(folder("c") / "current", "v1");
  write_file(folder("a") / "current", "v1");
  write_file(folder("a") / "current", "v2");
  EXPECT_EQ(next(), (Names{"a", "c"}));
  EXPECT_EQ(changes_.take(), Names{});
}

TEST_F(RegistryChangesTest, OtherWorkInTheFolderIsNoChange) {
  changes_.watch("a", folder("a"));
  std::ofstream(folder("a") / ".lock") << "held";
  std::filesystem::create_directories(folder("a") / "versions" / "v1");
  write_file(folder("a") / "versions" / "v1" / "manifest.json", "{}");
  EXPECT_EQ(changes_.take(), Names{});
}

TEST_F(RegistryChangesTest, AFolderThatIsMadeAgainIsWatchedAgain) {
  changes_.watch("a", folder("a"));
  std::filesystem::remove_all(folder("a"));
  EXPECT_EQ(next(), Names{"a"});
  changes_.watch("a", folder("a"));
  write_file(folder("a") / "current", "v1");
  EXPECT_EQ(next(), Names{"a"});
  std::filesystem::rename(folder("a"), root_.path() / "elsewhere");
  EXPECT_EQ(next(), Names{"a"});
  changes_.take();  // that its watch has ended
  changes_.watch("a", folder("a"));
  write_file(root_.path() / "elsewhere" / "current", "v2");
  EXPECT_EQ(changes_.take(), Names{});
  write_file(folder("a") / "current", "v2");
  EXPECT_EQ(next(), Names{"a"});
}

TEST_F(RegistryChangesTest, AFolderThatIsNotThereIsWatchedLater) {
  changes_.watch("a", root_.path() / "a");
  changes_.watch("a", folder("a"));
  write_file(folder("a") / "current", "v1");
  EXPECT_EQ(next(), Names{"a"});
}

TEST_F(RegistryChangesTest, WaitsForOthersTooAndNoLongerThanAsked) {
  other_.set();
  changes_.wait(other_.fd(), Clock::now() + std::chrono::hours(1));
  other_.clear();
  const auto until = Clock::now() + std::chrono::milliseconds(5);
  changes_.wait(other_.fd(), until);
  EXPECT_GE(Clock::now(), until);
}

}  // namespace
}  // namespace smt::server
