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

  static uint64_t hash(std::string_view key) { return XXH3_64bits(key.data(), key.size()); }

  // Adds `key` at the next position; false (and no change) if it is there already. At most `expected` keys.
  bool insert(std::string_view key) {
    const uint64_t h = hash(key);
    Slot* slot = const_cast<Slot*>(probe(key, h));
    if (slot->end != 0) return false;
    *slot = {tag(h), ++size_, bytes_.size()};
    const size_t size = key.size();
    bytes_.append(reinterpret_cast<const char*>(&size), sizeof(size));
    bytes_.append(key);
    return true;
  }

  // Position of `key`, or -1.
  int64_t find(std::string_view key, uint64_t hash) const { return static_cast<int64_t>(probe(key, hash)->end) - 1; }
  int64_t find(std::string_view key) const { return find(key, hash(key)); }

  // For a find() soon: fetches the slot.
  void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[hash & (slots_.size() - 1)]); }
  // For a find() after that: fetches the key that is probably equal.
  void prefetch_key(uint64_t hash) const {
    __builtin_prefetch(bytes_.data() + slots_[hash & (slots_.size() - 1)].start);
  }

 private:
  struct Slot {
    uint32_t tag = 0;  // the hash's upper half; the lower half says where the probe starts
    uint32_t end = 0;  // position + 1; 0: empty
    size_t start = 0;  // where bytes_ holds the key's size, and the key after it: one cache line for short keys
  };

  static uint32_t tag(uint64_t hash) { return static_cast<uint32_t>(hash >> 32); }

  const Slot* probe(std::string_view key, uint64_t hash) const {
    const size_t mask = slots_.size() - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
      const Slot& slot = slots_[i];
      if (slot.end == 0 || (slot.tag == tag(hash) && holds(slot, key))) return &slot;
    }
  }

  bool holds(const Slot& slot, std::string_view key) const {
    const char* at = bytes_.data() + slot.start;
    size_t size;
    std::memcpy(&size, at, sizeof(size));
    return size == key.size() && (size == 0 || std::memcmp(at + sizeof(size), key.data(), size) == 0);
  }

  std::vector<Slot> slots_;
  uint32_t size_ = 0;
  std::string bytes_;
};

class IntTable {
 public:
  explicit IntTable(size_t expected = 0) : slots_(std::bit_ceil(2 * (expected + 1))) {}

  // Multiply and fold (Fibonacci hashing): consecutive ids and multiples of a power of two must both spread.
  static uint64_t hash(int64_t key) {
    const uint64_t mixed = static_cast<uint64_t>(key) * 0x9E3779B97F4A7C15u;
    return mixed ^ (mixed >> 32);
  }

  bool insert(int64_t key) {
    Slot* slot = const_cast<Slot*>(probe(key, hash(key)));
    if (slot->end != 0) return false;
    *slot = {key, ++size_};
    return true;
  }

  int64_t find(int64_t key, uint64_t hash) const { return static_cast<int64_t>(probe(key, hash)->end) - 1; }
  int64_t find(int64_t key) const { return find(key, hash(key)); }

  void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[hash & (slots_.size() - 1)]); }
  void prefetch_key(uint64_t) const {}  // the key is in the slot

 private:
  struct Slot {
    int64_t key = 0;
    uint32_t end = 0;  // position + 1; 0: empty
  };

  const Slot* probe(int64_t key, uint64_t hash) const {
    const size_t mask = slots_.size() - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
      const Slot& slot = slots_[i];
      if (slot.end == 0 || slot.key == key) return &slot;
    }
  }

  std::vector<Slot> slots_;
  uint32_t size_ = 0;
};

}  // namespace smt::transform
