#include "message_bytes.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace smt::server {
namespace {

std::string_view text_of(const grpc::Slice& slice) {
  return {reinterpret_cast<const char*>(slice.begin()), slice.size()};
}

// Shorter slices may lie inside their handle, of which we have a copy; the bytes of longer ones are shared, and stay
// where they are as long as the buffer that we got them from.
bool shared(const grpc::Slice& slice) { return slice.size() > GRPC_SLICE_INLINED_SIZE; }

// `size` bytes of the slices, or all that there are, on the arena.
std::string_view copied(const std::vector<grpc::Slice>& slices, size_t size, google::protobuf::Arena& arena) {
  char* const copy = google::protobuf::Arena::CreateArray<char>(&arena, size);
  size_t filled = 0;
  for (const grpc::Slice& slice : slices) {
    const size_t part = std::min(slice.size(), size - filled);
    std::memcpy(copy + filled, slice.begin(), part);
    filled += part;
  }
  return {copy, filled};
}

// The first bytes of a message: at least `size` of them if there are so many.
std::string_view beginning(const grpc::ByteBuffer& bytes, size_t size, google::protobuf::Arena& arena) {
  grpc::Slice whole;
  if (bytes.TrySingleSlice(&whole).ok() && shared(whole)) return text_of(whole);
  std::vector<grpc::Slice> slices;
  if (!bytes.Dump(&slices).ok() || slices.empty()) return {};
  // On a busy connection the first piece may be a few bytes, left over from what was read with the message before.
  if (slices.front().size() >= size && shared(slices.front())) return text_of(slices.front());
  return copied(slices, size, arena);
}

}  // namespace

std::string_view first_text(const grpc::ByteBuffer& bytes, google::protobuf::Arena& arena) {
  constexpr char kTag = 1 << 3 | 2;
  constexpr size_t kOneByte = 0x80;  // lengths below it take one byte; names are shorter
  const std::string_view text = beginning(bytes, 2 + kOneByte, arena);
  if (text.size() < 2 || text[0] != kTag || static_cast<unsigned char>(text[1]) >= kOneByte) return {};
  const auto length = static_cast<size_t>(text[1]);
  return text.size() < 2 + length ? std::string_view() : text.substr(2, length);
}

std::string_view in_one_piece(const grpc::ByteBuffer& bytes, google::protobuf::Arena& arena) {
  grpc::Slice whole;
  if (bytes.TrySingleSlice(&whole).ok() && shared(whole)) return text_of(whole);
  std::vector<grpc::Slice> slices;
  if (!bytes.Dump(&slices).ok()) return {};  // it holds nothing
  return copied(slices, bytes.Length(), arena);
}

}  // namespace smt::server
