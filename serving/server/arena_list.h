// Lists that grow on a protobuf arena.
#pragma once

#include <google/protobuf/arena.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>

namespace smt::server {

// Takes memory of the arena in larger pieces: to ask it for some costs as much as to read a feature of one row.
class ArenaPieces {
 public:
  static constexpr size_t kAlignment = 8;

  // For a message of so many bytes.
  ArenaPieces(google::protobuf::Arena& arena, size_t message)
      : arena_(arena), piece_(rounded(std::min(message, kLargestPiece))) {}

  // Aligned to kAlignment, and there as long as the arena. Throws std::bad_alloc.
  void* take(size_t bytes) {
    bytes = rounded(bytes);
    if (bytes > left_) {
      if (bytes > piece_ / 4) return arena_.AllocateAligned(bytes);  // so that little is lost at a piece's end
      at_ = static_cast<char*>(arena_.AllocateAligned(piece_));
      left_ = piece_;
    }
    left_ -= bytes;
    return std::exchange(at_, at_ + bytes);
  }

 private:
  static constexpr size_t kLargestPiece = 4096;

  static size_t rounded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

  google::protobuf::Arena& arena_;
  const size_t piece_;
  char* at_ = nullptr;
  size_t left_ = 0;
};

// A repeated field. Its memory at least doubles when it grows: many short runs cost no more than one long one.
template <typename T>
class ArenaList {
  static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= ArenaPieces::kAlignment);

 public:
  // Room for `count` more, to be written by the caller; earlier results of values() may not see them.
  T* add(size_t count, ArenaPieces& memory) {
    if (capacity_ - size_ < count) {
      capacity_ = std::max(size_ + count, 2 * capacity_);
      T* wider = static_cast<T*>(memory.take(capacity_ * sizeof(T)));
      std::copy_n(data_, size_, wider);
      data_ = wider;
    }
    size_ += count;
    return data_ + size_ - count;
  }

  std::span<const T> values() const { return {data_, size_}; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

}  // namespace smt::server
