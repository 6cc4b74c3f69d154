#include "message_bytes.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "wire.h"

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

Beginning look_at(const grpc::ByteBuffer& bytes, google::protobuf::Arena& arena) {
  constexpr size_t kLongest = 0x80;  // names and versions are shorter
  constexpr size_t kEnough = 200;
  Beginning out;
  Wire wire(beginning(bytes, kEnough, arena));
  try {
    if (wire.done() || wire.tag() != wire_tag(1, WireType::kBytes)) return out;
    const std::string_view name = wire.bytes();
    if (name.size() >= kLongest) return out;
    out.scenario = name;
    uint32_t tag = wire.done() ? 0 : wire.tag();
    if (tag == wire_tag(2, WireType::kBytes)) {
      wire.bytes();
      tag = wire.done() ? 0 : wire.tag();
    }
    if (tag == wire_tag(3, WireType::kVarint)) out.rows = std::max<int64_t>(0, static_cast<int32_t>(wire.varint()));
  } catch (const WireDamage&) {
    // The message goes on behind what there is of it, or is damaged, which its reader will find.
  }
  return out;
}

std::string_view in_one_piece(const grpc::ByteBuffer& bytes, google::protobuf::Arena& arena) {
  grpc::Slice whole;
  if (bytes.TrySingleSlice(&whole).ok() && shared(whole)) return text_of(whole);
  std::vector<grpc::Slice> slices;
  if (!bytes.Dump(&slices).ok()) return {};  // it holds nothing
  return copied(slices, bytes.Length(), arena);
}

}  // namespace smt::server
