#include "names.h"

#include <gtest/gtest.h>

namespace smt::server {
namespace {

TEST(Names, NothingThatLeavesAFolderIsAName) {
  for (const char* good : {"a", "income_workers", "a-1", "0"}) EXPECT_TRUE(valid_name(good)) << good;
  for (const char* bad : {"", ".", "..", "a/b", "A", "a b", "a.b", "\xc3\xa4"}) EXPECT_FALSE(valid_name(bad)) << bad;
  EXPECT_TRUE(valid_name(std::string(64, 'a')));
  EXPECT_FALSE(valid_name(std::string(65, 'a')));
  EXPECT_TRUE(valid_version("20260101-120000-000-0123abcd"));
  for (const char* bad : {"", "..", "../x", "a/b", "a b", "a\n"}) EXPECT_FALSE(valid_version(bad)) << bad;
}

TEST(Names, ShortenedKeepsBothEndsAndWholeCharacters) {
  EXPECT_EQ(shortened("short", 100), "short");
  std::string text = "begin " + std::string(5000, 'x') + " end";
  std::string cut = shortened(text, 100);
  EXPECT_LE(cut.size(), 100U);
  EXPECT_TRUE(cut.starts_with("begin "));
  EXPECT_TRUE(cut.ends_with(" end"));
  std::string umlauts;
  for (int i = 0; i < 1000; ++i) umlauts += "\xc3\xa4";
  for (size_t max = 40; max < 60; ++max) {
    std::string whole = shortened(umlauts, max);
    EXPECT_LE(whole.size(), max);
    EXPECT_TRUE(transform::valid_utf8(whole)) << whole;
  }
  EXPECT_EQ(shortened("\xed\xa0\x80"), "\\xed\\xa0\\x80");
  EXPECT_TRUE(transform::valid_utf8(shortened(std::string(5000, '\xff'), 50)));
}

TEST(Names, NearestFirstAndBounded) {
  std::vector<std::string> names{"income_workers", "education", "income_others", "zebra"};
  EXPECT_EQ(nearest("income_worker", names, 2), (std::vector<std::string>{"income_workers", "income_others"}));
  EXPECT_EQ(nearest(std::string(1 << 20, 'x'), names, 10).size(), 4U);
  EXPECT_TRUE(nearest("a", {}, 10).empty());
  EXPECT_EQ(joined(names), "income_workers, education, income_others, zebra");
  EXPECT_EQ(joined({}), "none");
}

}  // namespace
}  // namespace smt::server
