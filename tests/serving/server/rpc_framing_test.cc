#include <gtest/gtest.h>
#include <zlib.h>

#include <random>
#include <string>
#include <vector>

#include "byte_buffer.h"
#include "rpc/framing.h"

namespace smt::server::rpc {
namespace {

using std::chrono::nanoseconds;

std::string prefixed(const std::string& message, bool compressed = false) {
  std::string out = framed(message);
  out[0] = compressed ? 1 : 0;
  return out;
}

// The messages in `bytes`, handed over in pieces of `piece`.
std::vector<std::string> read_all(MessageReader& reader, std::string_view bytes, size_t piece) {
  std::vector<std::string> found;
  while (!bytes.empty()) {
    std::string_view part = bytes.substr(0, piece);
    bytes.remove_prefix(part.size());
    while (!part.empty()) {
      part.remove_prefix(reader.take(part));
      if (reader.complete()) found.push_back(text_of(reader.finish()));
    }
  }
  return found;
}

std::string packed(const std::string& text, int window) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(text.size() + 100, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

TEST(Framing, Timeouts) {
  EXPECT_EQ(parse_timeout("1H"), std::chrono::hours(1));
  EXPECT_EQ(parse_timeout("2M"), std::chrono::minutes(2));
  EXPECT_EQ(parse_timeout("30S"), std::chrono::seconds(30));
  EXPECT_EQ(parse_timeout("100m"), std::chrono::milliseconds(100));
  EXPECT_EQ(parse_timeout("7u"), std::chrono::microseconds(7));
  EXPECT_EQ(parse_timeout("99999999n"), nanoseconds(99999999));
  EXPECT_GT(*parse_timeout("99999999H"), std::chrono::hours(24 * 364));  // as long as makes sense, and no overflow
  for (const char* bad : {"", "m", "10", "1x", "-1m", "1 m", "123456789m", "1mm"}) {
    EXPECT_FALSE(parse_timeout(bad)) << bad;
  }
}

TEST(Framing, Encodings) {
  EXPECT_EQ(parse_compression("identity"), Compression::kNone);
  EXPECT_EQ(parse_compression("gzip"), Compression::kGzip);
  EXPECT_EQ(parse_compression("deflate"), Compression::kDeflate);
  EXPECT_FALSE(parse_compression("br"));
}

TEST(Framing, StatusTextsTravelAsPrintableAscii) {
  EXPECT_EQ(percent_encoded("rows: 0; expected 1..4096"), "rows: 0; expected 1..4096");
  EXPECT_EQ(percent_encoded("100%\n\xc3\xa9"), "100%25%0A%C3%A9");
}

TEST(Framing, MessagesComeOutAsTheyWentInHoweverTheyAreCut) {
  std::mt19937 random(1);
  std::vector<std::string> messages;
  std::string bytes;
  for (size_t size : {0, 1, 5, 22, 23, 24, 1000, 0, 70'000, 600'000}) {
    std::string message(size, '\0');
    for (char& c : message) c = static_cast<char>(random());
    bytes += prefixed(message);
    messages.push_back(std::move(message));
  }
  for (size_t piece : {1, 3, 5, 7, 4096, 1 << 20}) {
    MessageReader reader(1 << 20);
    EXPECT_EQ(read_all(reader, bytes, piece), messages) << piece;
    EXPECT_TRUE(reader.empty());
  }
}

TEST(Framing, WhatThereIsOfAMessageCanBeLookedAt) {
  MessageReader reader(1000);
  const std::string bytes = prefixed("hello world");
  EXPECT_TRUE(reader.empty());
  EXPECT_EQ(reader.take(bytes.substr(0, 3)), 3U);
  EXPECT_FALSE(reader.empty());
  EXPECT_EQ(reader.beginning(), "");
  EXPECT_EQ(reader.take(bytes.substr(3, 7)), 7U);
  EXPECT_EQ(reader.size(), 11U);
  EXPECT_EQ(reader.beginning(), "hello");
  EXPECT_FALSE(reader.complete());
}

TEST(Framing, CompressedMessages) {
  const std::string text(50'000, 'x');
  for (auto [compression, window] : {std::pair{Compression::kGzip, 15 + 16}, {Compression::kDeflate, 15}}) {
    MessageReader reader(1 << 20);
    reader.set_compression(compression);
    const std::string bytes = prefixed(packed(text, window), true) + prefixed("plain");
    EXPECT_EQ(read_all(reader, bytes, 100), (std::vector<std::string>{text, "plain"}));
  }
}

void expect_status(MessageReader& reader, const std::string& bytes, grpc::StatusCode code, const std::string& text) {
  try {
    read_all(reader, bytes, bytes.size());
    FAIL() << "expected status " << code;
  } catch (const grpc::Status& status) {
    EXPECT_EQ(status.error_code(), code);
    EXPECT_NE(status.error_message().find(text), std::string::npos) << status.error_message();
  }
}

TEST(Framing, RefusesByThePrefixWhatIsTooLarge) {
  MessageReader reader(10);
  expect_status(reader, prefixed(std::string(11, 'x')).substr(0, 5), grpc::StatusCode::RESOURCE_EXHAUSTED,
                "11 bytes, limit 10");
}

TEST(Framing, RefusesWhatGrowsTooLarge) {
  MessageReader reader(10'000);
  reader.set_compression(Compression::kGzip);
  expect_status(reader, prefixed(packed(std::string(1 << 20, 'x'), 15 + 16), true),
                grpc::StatusCode::RESOURCE_EXHAUSTED, "limit 10000");
}

TEST(Framing, RefusesDamagedCompression) {
  const std::string good = packed(std::string(1000, 'x'), 15 + 16);
  for (const std::string& bad : {std::string("damaged"), good.substr(0, good.size() / 2), std::string()}) {
    MessageReader reader(10'000);
    reader.set_compression(Compression::kGzip);
    expect_status(reader, prefixed(bad, true), grpc::StatusCode::INTERNAL, "does not decompress");
  }
  MessageReader reader(10'000);  // grpc-encoding did not say how
  expect_status(reader, prefixed(good, true), grpc::StatusCode::INTERNAL, "grpc-encoding");
}

}  // namespace
}  // namespace smt::server::rpc
