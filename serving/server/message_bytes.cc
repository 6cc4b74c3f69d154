#include "message_bytes.h"

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

}  // namespace

std::string_view first_text(const grpc::ByteBuffer& bytes) {
  grpc::Slice first;
  if (!bytes.TrySingleSlice(&first).ok()) {
    std::vector<grpc::Slice> slices;
    if (!bytes.Dump(&slices).ok() || slices.empty()) return {};
    first = slices.front();
  }
  if (!shared(first)) return {};
  const std::string_view text = text_of(first);
  constexpr char kTag = 1 << 3 | 2;
  constexpr unsigned kOneByte = 0x80;  // lengths below it take one byte; names are shorter
  if (text.size() < 2 || text[0] != kTag || static_cast<unsigned char>(text[1]) >= kOneByte) return {};
  const auto length = static_cast<size_t>(text[1]);
  return text.size() < 2 + length ? std::string_view() : text.substr(2, length);
}

std::string_view in_one_piece(const grpc::ByteBuffer& bytes, google::protobuf::Arena& arena) {
  grpc::Slice whole;
  if (bytes.TrySingleSlice(&whole).ok() && shared(whole)) return text_of(whole);
  std::vector<grpc::Slice> slices;
  if (!bytes.Dump(&slices).ok()) return {};  // it holds nothing
  size_t size = 0;
  for (const grpc::Slice& slice : slices) size += slice.size();
  char* const copy = google::protobuf::Arena::CreateArray<char>(&arena, size);
  char* end = copy;
  for (const grpc::Slice& slice : slices) {
    std::memcpy(end, slice.begin(), slice.size());
    end += slice.size();
  }
  return {copy, size};
}

}  // namespace smt::server
