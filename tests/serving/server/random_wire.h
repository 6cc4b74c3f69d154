// Random requests as bytes of the wire format, in forms that no serializer makes but every parser has to take: fields
// in any order and again, runs of packed numbers beside single ones, oneofs set more than once, fields that the message
// does not have, or has with another type, and numbers in more bytes than needed.
#pragma once

#include <google/protobuf/descriptor.h>

#include <cstdint>
#include <random>
#include <string>

namespace smt::server {

class RandomWire {
 public:
  explicit RandomWire(uint32_t seed) : random_(seed) {}

  uint32_t below(uint32_t n) { return static_cast<uint32_t>(random_()) % n; }
  bool one_in(uint32_t n) { return below(n) == 0; }

  // A few fields of a message of this type.
  std::string message(const google::protobuf::Descriptor& type) {
    std::string out;
    for (uint32_t n = below(8); n > 0; --n) {
      if (one_in(12)) {
        out += unknown(type);
      } else {
        out += field(*type.field(static_cast<int>(below(static_cast<uint32_t>(type.field_count())))));
      }
    }
    return out;
  }

  // `bytes` with some of them changed, missing, or repeated.
  std::string spoilt(std::string bytes) {
    for (uint32_t n = 1 + below(3); n > 0 && !bytes.empty(); --n) {
      const uint32_t at = below(static_cast<uint32_t>(bytes.size()));
      switch (below(5)) {
        case 0:
          bytes[at] = static_cast<char>(random_());
          break;
        case 1:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
          break;
        case 2:
          bytes.erase(at, 1 + below(4));
          break;
        case 3:
          bytes.insert(at, bytes.substr(at, 1 + below(20)));
          break;
        default:
          bytes.resize(at);
      }
    }
    return bytes;
  }

 private:
  using Field = google::protobuf::FieldDescriptor;

  // Sometimes in more bytes than needed, and then sometimes in more than allowed.
  std::string varint(uint64_t value) {
    std::string out;
    for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
    out += static_cast<char>(value);
    if (!one_in(60)) return out;
    for (uint32_t n = 1 + below(6); n > 0; --n) {
      out.back() = static_cast<char>(out.back() | 0x80);
      out += one_in(8) ? static_cast<char>(below(128)) : '\0';
    }
    return out;
  }

  std::string tag(int number, uint32_t type) { return varint(static_cast<uint64_t>(number) << 3 | type); }
  std::string delimited(int number, const std::string& bytes) { return tag(number, 2) + varint(bytes.size()) + bytes; }

  std::string raw(size_t size) {
    std::string out;
    while (out.size() < size) out += static_cast<char>(random_());
    return out;
  }

  std::string text() {
    static constexpr const char* kTexts[]{"", "age", "city", "Krak\xc3\xb3w", "a text of more than eight bytes"};
    if (one_in(200)) return "not \xed\xa0\x80";
    return kTexts[below(std::size(kTexts))];
  }

  std::string field(const Field& field) {
    switch (field.type()) {
      case Field::TYPE_MESSAGE:
        return delimited(field.number(), message(*field.message_type()));
      case Field::TYPE_STRING:
        return delimited(field.number(), text());
      case Field::TYPE_INT32:
        return tag(field.number(), 0) + varint(one_in(2) ? below(300) : random_());
      default: {
        const bool wide = field.type() == Field::TYPE_DOUBLE || field.type() == Field::TYPE_SFIXED64;
        const size_t size = wide ? 8 : 4;
        if (one_in(3)) return tag(field.number(), wide ? 1 : 5) + raw(size);
        return delimited(field.number(), raw(below(6) * size + (one_in(100) ? 1 : 0)));
      }
    }
  }

  std::string unknown(const google::protobuf::Descriptor& type) {
    static constexpr int kNumbers[]{9, 15, 16, 100, (1 << 29) - 1};
    const int number = one_in(2)
                           ? kNumbers[below(std::size(kNumbers))]
                           : type.field(static_cast<int>(below(static_cast<uint32_t>(type.field_count()))))->number();
    switch (below(9)) {
      case 0:
      case 1:
        return tag(number, 0) + varint(random_());
      case 2:
      case 3:
        return tag(number, 1) + raw(8);
      case 4:
      case 5:
        return tag(number, 5) + raw(4);
      case 6:
        return tag(number, 3) + tag(number, 0) + varint(1) + tag(number, 4);  // a group
      default:
        return delimited(100, raw(below(5)));
    }
  }

  std::mt19937_64 random_;
};

}  // namespace smt::server
