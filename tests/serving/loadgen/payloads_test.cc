#include "payloads.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "plan.h"

namespace smt::loadgen {
namespace {

std::string record(uint32_t size, uint32_t rows, const std::string& message) {
  std::string made(8, '\0');
  std::memcpy(made.data(), &size, 4);
  std::memcpy(made.data() + 4, &rows, 4);
  return made + message;
}

class PayloadFile : public testing::Test {
 protected:
  PayloadFile() : path_(testing::TempDir() + "payloads-" + std::to_string(getpid())) {}
  ~PayloadFile() override { std::filesystem::remove(path_); }

  void write(const std::string& content) { std::ofstream(path_, std::ios::binary) << content; }

  std::filesystem::path path_;
};

TEST_F(PayloadFile, MessagesCarryTheirPrefix) {
  std::string large(70000, 'x');
  write(record(3, 5, "abc") + record(0, 0, "") + record(70000, 9, large));
  Payloads payloads(path_);
  ASSERT_EQ(payloads.size(), 3U);
  EXPECT_EQ(std::string(payloads[0].data, payloads[0].size), std::string("\0\0\0\0\3abc", 8));
  EXPECT_EQ(payloads[0].rows, 5U);
  EXPECT_EQ(std::string(payloads[1].data, payloads[1].size), std::string(5, '\0'));
  EXPECT_EQ(std::string(payloads[2].data, payloads[2].size), std::string("\0\0\1\x11\x70", 5) + large);
}

TEST_F(PayloadFile, CutShortIsRefused) {
  std::string whole = record(3, 1, "abc") + record(4, 1, "defg");
  for (size_t size = 0; size < whole.size(); ++size) {
    if (size == 11) continue;  // the first record alone
    write(whole.substr(0, size));
    EXPECT_THROW(Payloads{path_}, PlanError) << size;
  }
  write(record(UINT32_MAX, 1, "abc"));
  EXPECT_THROW(Payloads{path_}, PlanError);
  std::filesystem::remove(path_);
  EXPECT_THROW(Payloads{path_}, PlanError);
}

}  // namespace
}  // namespace smt::loadgen
