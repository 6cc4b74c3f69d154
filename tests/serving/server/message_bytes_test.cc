#include "message_bytes.h"

#include <gtest/gtest.h>

#include "byte_buffer.h"

namespace smt::server {
namespace {

using google::protobuf::Arena;

// A message of `size` bytes that begins with a string of number 1.
std::string named(const std::string& name, size_t size) {
  std::string out = "\x0a" + std::string(1, static_cast<char>(name.size())) + name;
  while (out.size() < size) out += static_cast<char>('a' + out.size() % 26);
  return out;
}

// Where the bytes of a buffer of one piece lie; the piece must be too long to lie inside its handle.
uintptr_t memory_of(const grpc::ByteBuffer& buffer) {
  grpc::Slice slice;
  EXPECT_TRUE(buffer.TrySingleSlice(&slice).ok());
  return reinterpret_cast<uintptr_t>(slice.begin());
}

uintptr_t memory_of(std::string_view text) { return reinterpret_cast<uintptr_t>(text.data()); }

TEST(MessageBytes, OnePieceIsNotCopied) {
  const std::string bytes = named("feed", 500);
  const grpc::ByteBuffer buffer = in_slices(bytes, 500);
  Arena arena;
  const uint64_t before = arena.SpaceUsed();
  const std::string_view whole = in_one_piece(buffer, arena);
  EXPECT_EQ(whole, bytes);
  EXPECT_EQ(memory_of(whole), memory_of(buffer));
  EXPECT_EQ(arena.SpaceUsed(), before);
}

TEST(MessageBytes, SeveralPiecesBecomeOne) {
  for (size_t size : {2, 3, 23, 24, 25, 64, 500}) {
    const std::string bytes = named("", size);
    for (size_t slice = 1; slice < size; ++slice) {
      Arena arena;
      EXPECT_EQ(in_one_piece(in_slices(bytes, slice), arena), bytes) << "the copy needs no buffer";
    }
  }
}

// gRPC keeps short slices inside their handle: what is returned must not point into one that is gone.
TEST(MessageBytes, ShortPiecesOutliveTheirHandles) {
  for (size_t size = 2; size <= 40; ++size) {
    const std::string bytes = named("", size);
    const grpc::ByteBuffer buffer = in_slices(bytes, size);
    Arena arena;
    const std::string_view whole = in_one_piece(buffer, arena);
    const grpc::ByteBuffer other = in_slices(std::string(size, 'z'), size);
    Arena other_arena;
    EXPECT_EQ(in_one_piece(other, other_arena), std::string(size, 'z'));
    EXPECT_EQ(whole, bytes);
  }
}

TEST(MessageBytes, NoBytesAreAnEmptyMessage) {
  Arena arena;
  EXPECT_EQ(in_one_piece(grpc::ByteBuffer(), arena), "");
  EXPECT_EQ(in_one_piece(in_slices("", 1), arena), "");
  EXPECT_EQ(look_at(grpc::ByteBuffer(), arena).scenario, "");
  EXPECT_EQ(look_at(in_slices("", 1), arena).scenario, "");
}

TEST(MessageBytes, TheScenarioOfOnePieceIsNotCopied) {
  const grpc::ByteBuffer whole = in_slices(named("feed", 500), 500);
  Arena arena;
  const uint64_t before = arena.SpaceUsed();
  EXPECT_EQ(look_at(whole, arena).scenario, "feed");
  EXPECT_EQ(memory_of(look_at(whole, arena).scenario), memory_of(whole) + 2);
  EXPECT_EQ(look_at(in_slices(named("feed", 500), 200), arena).scenario, "feed");
  EXPECT_EQ(arena.SpaceUsed(), before);
}

TEST(MessageBytes, TheScenarioIsFoundHoweverTheMessageIsCut) {
  for (const std::string& name : {std::string("feed"), std::string(64, 'n'), std::string(127, 'n')}) {
    for (size_t size : {name.size() + 2, size_t{500}}) {
      for (size_t slice = 1; slice <= size; ++slice) {
        Arena arena;
        const grpc::ByteBuffer bytes = in_slices(named(name, size), slice);
        EXPECT_EQ(look_at(bytes, arena).scenario, name) << size << " bytes in slices of " << slice;
      }
    }
  }
}

TEST(MessageBytes, TheScenarioThatIsNone) {
  Arena arena;
  EXPECT_EQ(look_at(in_slices("\x12\x04" + std::string(50, 'n'), 500), arena).scenario, "") << "number 2";
  EXPECT_EQ(look_at(in_slices("\x0a\x7f" + std::string(50, 'n'), 500), arena).scenario, "") << "shorter than it says";
  EXPECT_EQ(look_at(in_slices("\x0a\x80\x01" + std::string(200, 'n'), 500), arena).scenario, "")
      << "too long for a name";
  EXPECT_EQ(look_at(in_slices("\x0a", 500), arena).scenario, "");
}

TEST(MessageBytes, RowsThatComeEarlyAreSeen) {
  const std::string scenario =
      "\x0a\x04"
      "feed";
  const std::string rows = "\x18\xac\x02";  // 300
  const std::string rest(500, '\x2a');
  Arena arena;
  auto seen = [&](const std::string& message) { return look_at(in_slices(message, 500), arena); };
  EXPECT_EQ(seen(scenario + rows + rest).rows, 300);
  EXPECT_EQ(seen(scenario +
                 "\x12\x02"
                 "v1" +
                 rows + rest)
                .rows,
            300);
  EXPECT_EQ(seen(scenario + rows).rows, 300);
  EXPECT_EQ(seen(scenario + rest).rows, 0);
  EXPECT_EQ(seen(scenario).rows, 0);
  EXPECT_EQ(seen(scenario + "\x18\xac").rows, 0) << "cut off";
  EXPECT_EQ(seen(scenario + "\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + rest).rows, 0) << "negative";
  EXPECT_EQ(seen(scenario +
                 "\x1a\x02"
                 "id" +
                 rest)
                .rows,
            0)
      << "a string: the protocol is another one";
  EXPECT_EQ(seen(scenario +
                 "\x12\x02"
                 "v1" +
                 "\x18\xac")
                .scenario,
            "feed");
}

}  // namespace
}  // namespace smt::server
