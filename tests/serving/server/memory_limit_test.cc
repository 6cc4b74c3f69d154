#include "memory_limit.h"

#include <gtest/gtest.h>

#include "temporary_folder.h"

namespace smt::server {
namespace {

constexpr int64_t kMiB = 1 << 20;

class MemoryLimitTest : public ::testing::Test {
 protected:
  void cgroup(const std::string& text) { write_file(folder_.path() / "proc/self/cgroup", text); }
  void limit(const std::string& file, const std::string& text) { write_file(folder_.path() / "cgroup" / file, text); }
  int64_t found() { return default_memory_limit(folder_.path() / "proc", folder_.path() / "cgroup"); }
  TemporaryFolder folder_;
};

TEST_F(MemoryLimitTest, WithoutCgroupsItIsTheMachines) {
  int64_t machine = found();
  EXPECT_GT(machine, 64 * kMiB);
  cgroup("0::/\n");
  limit("memory.max", "max\n");
  EXPECT_EQ(found(), machine);
}

TEST_F(MemoryLimitTest, TheLeastOfTheGroupsAboveCounts) {
  cgroup("0::/pod/container\n");
  limit("pod/container/memory.max", "max\n");
  limit("pod/memory.max", std::to_string(1024 * kMiB));
  EXPECT_EQ(found(), 768 * kMiB) << "256 MiB are for all else";
  limit("pod/container/memory.max", std::to_string(512 * kMiB));
  EXPECT_EQ(found(), 256 * kMiB);
  limit("memory.max", std::to_string(100 * kMiB));
  EXPECT_EQ(found(), 64 * kMiB) << "never less";
}

TEST_F(MemoryLimitTest, ReadsTheFirstVersionOfCgroups) {
  cgroup("5:cpu,cpuacct:/x\n4:memory:/docker/0123\n");
  limit("memory/docker/0123/memory.limit_in_bytes", "9223372036854771712\n");
  limit("memory/memory.limit_in_bytes", std::to_string(800 * kMiB));
  EXPECT_EQ(found(), 544 * kMiB);
}

}  // namespace
}  // namespace smt::server
