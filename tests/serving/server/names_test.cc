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

TEST(Names, QuotesAreSafeToPrint) {
  EXPECT_EQ(in_quotes("abc"), "'abc'");
  EXPECT_EQ(in_quotes("a\nb\x7f"), "'a\\x0ab\\x7f'");
  EXPECT_EQ(in_quotes("\xff"
                      "a"),
            "'\\xffa'");
  EXPECT_EQ(in_quotes("\xc3\xa4"), "'\xc3\xa4'");
  EXPECT_EQ(in_quotes("abcdef", 3), "'abc'... (6 bytes)");
  EXPECT_EQ(in_quotes("a\xc3\xa4z", 2), "'a\xc3\xa4'... (4 bytes)");
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
    EXPECT_EQ(in_quotes(whole, 1000).find("\\x"), std::string::npos) << whole;
  }
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
