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
  EXPECT_EQ(first_text(grpc::ByteBuffer(), arena), "");
  EXPECT_EQ(first_text(in_slices("", 1), arena), "");
}

TEST(MessageBytes, FirstTextOfOnePieceIsNotCopied) {
  const grpc::ByteBuffer whole = in_slices(named("feed", 500), 500);
  Arena arena;
  const uint64_t before = arena.SpaceUsed();
  EXPECT_EQ(first_text(whole, arena), "feed");
  EXPECT_EQ(memory_of(first_text(whole, arena)), memory_of(whole) + 2);
  EXPECT_EQ(first_text(in_slices(named("feed", 500), 200), arena), "feed");
  EXPECT_EQ(arena.SpaceUsed(), before);
}

TEST(MessageBytes, FirstTextIsFoundHoweverTheMessageIsCut) {
  for (const std::string& name : {std::string("feed"), std::string(64, 'n'), std::string(127, 'n')}) {
    for (size_t size : {name.size() + 2, size_t{500}}) {
      for (size_t slice = 1; slice <= size; ++slice) {
        Arena arena;
        const grpc::ByteBuffer bytes = in_slices(named(name, size), slice);
        EXPECT_EQ(first_text(bytes, arena), name) << size << " bytes in slices of " << slice;
      }
    }
  }
}

TEST(MessageBytes, FirstTextThatIsNone) {
  Arena arena;
  EXPECT_EQ(first_text(in_slices("\x12\x04" + std::string(50, 'n'), 500), arena), "") << "number 2";
  EXPECT_EQ(first_text(in_slices("\x0a\x7f" + std::string(50, 'n'), 500), arena), "") << "shorter than it says";
  EXPECT_EQ(first_text(in_slices("\x0a\x80\x01" + std::string(200, 'n'), 500), arena), "") << "too long for a name";
  EXPECT_EQ(first_text(in_slices("\x0a", 500), arena), "");
}

}  // namespace
}  // namespace smt::server
