// Judged by nlohmann::json, whose dump() throws for text that is not UTF-8.
#include "text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

namespace smt::transform {
namespace {

bool judged_utf8(const std::string& text) {
  try {
    nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

TEST(Text, KnowsUtf8) {
  for (const char* good :
       {"", "a", "\xc3\xa4", "\xed\x9f\xbf", "\xee\x80\x80", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(valid_utf8(good)) << quote(good);
  }
  for (const char* bad : {"\xed\xa0\x80", "\xed\xbf\xbf",                                              // surrogates
                          "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xf0\x80\x80\x80",  // overlong
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",                                      // above U+10FFFF
                          "\x80", "\xff", "\xfe", "\xc3", "\xc3(", "\xe2\x82", "\xf0\x9f\x98"}) {
    EXPECT_FALSE(valid_utf8(bad)) << quote(bad);
    EXPECT_FALSE(valid_utf8(std::string("a") + bad));
  }
}

TEST(Text, QuotesAreSafeToPrint) {
  EXPECT_EQ(quote("abc"), "'abc'");
  EXPECT_EQ(quote("a\nb\x7f"), "'a\\x0ab\\x7f'");
  EXPECT_EQ(quote("\xed\xa0\x80"), "'\\xed\\xa0\\x80'");
  EXPECT_EQ(quote("\xc3\xa4"), "'\xc3\xa4'");
  EXPECT_EQ(quote(std::string(64, 'x')), "'" + std::string(64, 'x') + "'");
  EXPECT_EQ(quote(std::string(63, 'x') + "\xc3\xa4"), "'" + std::string(63, 'x') + "' (cut, 65 bytes)");
}

TEST(Text, PrintableKeepsTextAndEscapesTheRest) {
  EXPECT_EQ(printable("a\n\tb \xc3\xa4"), "a\n\tb \xc3\xa4");
  EXPECT_EQ(printable(std::string("\0\r\x1b\xff\xfe{", 6)), "\\x00\\x0d\\x1b\\xff\\xfe{");
  EXPECT_EQ(printable(""), "");
}

// Bytes drawn so that leads, continuations and the edges of both are frequent.
TEST(Text, RandomBytesBecomeUtf8) {
  constexpr unsigned char kBytes[] = {0x00, 0x0a, 'a',  'z',  0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0,
                                      0xc2, 0xdf, 0xe0, 0xe1, 0xed, 0xef, 0xf0, 0xf1, 0xf4, 0xf5, 0xff};
  std::mt19937 random(20240607);
  int valid = 0;
  for (int i = 0; i < 100000; ++i) {
    std::string text(random() % 6, '\0');
    for (char& c : text) c = static_cast<char>(kBytes[random() % std::size(kBytes)]);
    const bool good = judged_utf8(text);
    valid += good ? 1 : 0;
    ASSERT_EQ(valid_utf8(text), good) << quote(text);
    ASSERT_TRUE(judged_utf8(quote(text)));
    ASSERT_TRUE(judged_utf8(printable(text)));
    const bool control = std::any_of(text.begin(), text.end(), [](char c) {
      return (static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == '\x7f';
    });
    if (good && !control) {
      ASSERT_EQ(printable(text), text);
    }
  }
  EXPECT_GT(valid, 1000);
  EXPECT_LT(valid, 99000);
}

TEST(Text, EditDistance) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance(std::string(100, 'a'), "b"), 100u);
}

}  // namespace
}  // namespace smt::transform
