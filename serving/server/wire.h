// Reading of protocol buffers' wire format from contiguous memory, field by field, as their own parser reads it.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string_view>

namespace smt::server {

static_assert(std::endian::native == std::endian::little, "numbers are read as they lie on the wire");

// Bytes that are not of the wire format, or end too early.
class WireDamage : public std::runtime_error {
 public:
  WireDamage() : std::runtime_error("wire format damaged") {}
};

// Groups, the other types, are not used by our protocols.
enum class WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

constexpr uint32_t wire_tag(int field, WireType type) {
  return static_cast<uint32_t>(field) << 3 | static_cast<uint32_t>(type);
}

// What is left of a message. Every function moves past what it returns, and throws WireDamage.
class Wire {
 public:
  // `message` must outlive it and what it returns.
  explicit Wire(std::string_view message) : left_(message) {}

  bool done() const { return left_.empty(); }
  size_t left() const { return left_.size(); }

  // Of the next field: its number and its type.
  uint32_t tag() {
    const auto tag = static_cast<uint32_t>(varint(5));  // bits above 32 are dropped, as by the parser
    if (tag < wire_tag(1, WireType::kVarint)) throw WireDamage();
    return tag;
  }

  uint64_t varint() { return varint(10); }

  // Of a string, bytes, a message or a packed list.
  std::string_view bytes() {
    const uint64_t size = varint(5);
    return raw(size);
  }

  std::string_view raw(uint64_t size) {
    if (size > left_.size()) throw WireDamage();
    const std::string_view out = left_.substr(0, size);
    left_.remove_prefix(size);
    return out;
  }

  // The rest of a field of this tag. Groups, in which fields could hide, are damage.
  void skip(uint32_t tag) {
    switch (static_cast<WireType>(tag & 7)) {
      case WireType::kVarint:
        varint();
        return;
      case WireType::kFixed64:
        raw(8);
        return;
      case WireType::kBytes:
        bytes();
        return;
      case WireType::kFixed32:
        raw(4);
        return;
    }
    throw WireDamage();
  }

 private:
  // Of at most `longest` bytes; bits above 64 are dropped.
  uint64_t varint(int longest) {
    if (!left_.empty() && static_cast<uint8_t>(left_[0]) < 0x80) {  // nearly all
      const auto value = static_cast<uint8_t>(left_[0]);
      left_.remove_prefix(1);
      return value;
    }
    return long_varint(longest);
  }

  [[gnu::noinline]] uint64_t long_varint(int longest) {
    uint64_t value = 0;
    for (int i = 0; i < longest && static_cast<size_t>(i) < left_.size(); ++i) {
      const auto byte = static_cast<uint8_t>(left_[static_cast<size_t>(i)]);
      value |= static_cast<uint64_t>(byte & 0x7F) << (7 * i);
      if (byte >= 0x80) continue;
      left_.remove_prefix(static_cast<size_t>(i) + 1);
      return value;
    }
    throw WireDamage();
  }

  std::string_view left_;
};

}  // namespace smt::server
