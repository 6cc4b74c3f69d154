// Exact-match tables from a value to its position, built once and read by many threads.
//
// Open addressing with linear probing at a load of at most one half. Keyed by XXH3 of the bytes (strings, looked up
// by string_view without a copy) or by a mixed int64.
#pragma once

#ifndef XXH_INLINE_ALL
#define XXH_INLINE_ALL
#endif
#include <xxhash.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace smt::transform {

// Entries a table can hold: positions are 32 bits wide.
inline constexpr size_t kMaxVocabulary = std::numeric_limits<uint32_t>::max() / 4;

class StringTable {
 public:
  explicit StringTable(size_t expected = 0) : slots_(std::bit_ceil(2 * (expected + 1))) {}

  // Adds `key` at the next position; false (and no change) if it is there already. At most `expected` keys.
  bool insert(std::string_view key) {
    const uint64_t hash = XXH3_64bits(key.data(), key.size());
    Slot* slot = const_cast<Slot*>(probe(key, hash));
    if (slot->end != 0) return false;
    bytes_.append(key);
    starts_.push_back(bytes_.size());
    *slot = {hash, static_cast<uint32_t>(starts_.size() - 1)};
    return true;
  }

  // Position of `key`, or -1.
  int64_t find(std::string_view key) const {
    return static_cast<int64_t>(probe(key, XXH3_64bits(key.data(), key.size()))->end) - 1;
  }

 private:
  struct Slot {
    uint64_t hash = 0;
    uint32_t end = 0;  // position + 1; 0: empty
  };

  const Slot* probe(std::string_view key, uint64_t hash) const {
    const size_t mask = slots_.size() - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
      const Slot& slot = slots_[i];
      if (slot.end == 0) return &slot;
      if (slot.hash != hash) continue;
      const size_t start = starts_[slot.end - 1];
      const size_t size = starts_[slot.end] - start;
      if (size == key.size() && (size == 0 || std::memcmp(bytes_.data() + start, key.data(), size) == 0)) return &slot;
    }
  }

  std::vector<Slot> slots_;
  std::vector<size_t> starts_ = {0};  // key i is bytes_[starts_[i], starts_[i + 1])
  std::string bytes_;
};

class IntTable {
 public:
  explicit IntTable(size_t expected = 0) : slots_(std::bit_ceil(2 * (expected + 1))) {}

  bool insert(int64_t key) {
    Slot* slot = const_cast<Slot*>(probe(key));
    if (slot->end != 0) return false;
    *slot = {key, ++size_};
    return true;
  }

  int64_t find(int64_t key) const { return static_cast<int64_t>(probe(key)->end) - 1; }

 private:
  struct Slot {
    int64_t key = 0;
    uint32_t end = 0;  // position + 1; 0: empty
  };

  const Slot* probe(int64_t key) const {
    const size_t mask = slots_.size() - 1;
    // Multiply and fold (Fibonacci hashing): consecutive ids and multiples of a power of two must both spread.
    const uint64_t mixed = static_cast<uint64_t>(key) * 0x9E3779B97F4A7C15u;
    for (size_t i = (mixed ^ (mixed >> 32)) & mask;; i = (i + 1) & mask) {
      const Slot& slot = slots_[i];
      if (slot.end == 0 || slot.key == key) return &slot;
    }
  }

  std::vector<Slot> slots_;
  uint32_t size_ = 0;
};

}  // namespace smt::transform
