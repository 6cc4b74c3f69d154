#include "encode.h"

namespace smt::transform {
namespace {

template <class T>
int64_t encode_any(const Encoder& encoder, T value) {
  return std::visit(
      [value](const auto& e) -> int64_t {
        if constexpr (kEncodes<std::decay_t<decltype(e)>, T>) return EncodeValue()(e, value);
        return kUnknownRow;
      },
      encoder);
}

}  // namespace

int64_t encode_value(const Encoder& encoder, double value) { return encode_any(encoder, value); }
int64_t encode_value(const Encoder& encoder, int64_t value) { return encode_any(encoder, value); }
int64_t encode_value(const Encoder& encoder, std::string_view value) { return encode_any(encoder, value); }

}  // namespace smt::transform
