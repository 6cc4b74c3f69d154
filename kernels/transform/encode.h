// A categorical value -> its row of the feature's range of the table.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <span>
#include <type_traits>

#include "model.h"

namespace smt::transform {

static_assert(std::endian::native == std::endian::little, "ints are hashed as 8 little-endian bytes");

inline int64_t hash_row(const HashBuckets& buckets, const void* bytes, size_t size) {
  const uint64_t hash = XXH3_64bits_withSeed(bytes, size, buckets.seed);
  // hash % buckets.size: the quotient by the rounded inverse is the right one or one too small.
  __extension__ using Wide = unsigned __int128;
  const auto quotient = static_cast<uint64_t>((Wide{hash} * buckets.inverse) >> 64);
  const uint64_t rest = hash - quotient * buckets.size;
  return kFirstValueRow + static_cast<int64_t>(rest < buckets.size ? rest : rest - buckets.size);
}

struct EncodeValue {
  int64_t operator()(const StringVocabulary& vocabulary, std::string_view value) const {
    return row_of(vocabulary.table.find(value));
  }
  int64_t operator()(const IntVocabulary& vocabulary, int64_t value) const {
    return row_of(vocabulary.table.find(value));
  }
  template <class T>
  requires std::is_arithmetic_v<T> int64_t operator()(const Buckets& buckets, T value) const {
    const auto& boundaries = buckets.boundaries;
    return kFirstValueRow +
           (std::upper_bound(boundaries.begin(), boundaries.end(), static_cast<double>(value)) - boundaries.begin());
  }
  int64_t operator()(const HashBuckets& buckets, std::string_view value) const {
    return hash_row(buckets, value.data(), value.size());
  }
  int64_t operator()(const HashBuckets& buckets, int64_t value) const {
    return hash_row(buckets, &value, sizeof(value));
  }

  static int64_t row_of(int64_t position) { return position < 0 ? kUnknownRow : kFirstValueRow + position; }
};

// parse_model() admits an encoder only for types it can encode, and bind() a column only of the input's type; so for
// a pair that does not exist any answer will do. Without this, std::visit would not compile. An int vocabulary or a
// hash would take a double by conversion: excluded by exact type.
template <class E, class T>
inline constexpr bool kEncodes = std::is_same_v<E, Buckets>
                                     ? std::is_arithmetic_v<T>
                                     : (std::is_same_v<T, std::string_view> && !std::is_same_v<E, IntVocabulary>) ||
                                           (std::is_same_v<T, int64_t> && !std::is_same_v<E, StringVocabulary>);

// out[i] = base + the row of values[i].
template <class E, class T>
void encode_all(const E& encoder, std::span<const T> values, int64_t base, int64_t* out) {
  if constexpr (std::is_same_v<E, StringVocabulary> || std::is_same_v<E, IntVocabulary>) {
    // A large vocabulary is out of cache, so every lookup would wait for memory: ask for a block's slots at once.
    constexpr size_t kBlock = 32;
    std::array<uint64_t, kBlock> hashes;
    while (!values.empty()) {
      const auto block = values.first(std::min(kBlock, values.size()));
      for (size_t i = 0; i < block.size(); ++i) encoder.table.prefetch(hashes[i] = encoder.table.hash(block[i]));
      for (size_t i = 0; i < block.size(); ++i) encoder.table.prefetch_key(hashes[i]);
      for (size_t i = 0; i < block.size(); ++i) {
        *out++ = base + EncodeValue::row_of(encoder.table.find(block[i], hashes[i]));
      }
      values = values.subspan(block.size());
    }
  } else if constexpr (std::is_same_v<E, HashBuckets>) {
    const HashBuckets buckets = encoder;  // a copy: `out` might be taken for what would change the original
    for (const T& value : values) *out++ = base + EncodeValue()(buckets, value);
  } else {
    for (const T& value : values) *out++ = base + EncodeValue()(encoder, value);
  }
}

}  // namespace smt::transform
