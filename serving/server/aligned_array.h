// An array in its own memory mapping: page-aligned, zeroed, on huge pages where the kernel grants them, and given back
// to the system as soon as it is destroyed.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

namespace smt::server {

// Movable, single owner. Reading from several threads is safe once nobody writes.
template <typename T>
class AlignedArray {
  static_assert(std::is_trivial_v<T>);

 public:
  AlignedArray() = default;
  // Throws std::bad_alloc.
  explicit AlignedArray(size_t elements) : elements_(elements) {
    if (elements == 0) return;
    if (elements > SIZE_MAX / sizeof(T)) throw std::bad_alloc();
    void* memory = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    madvise(memory, bytes(), MADV_HUGEPAGE);  // advice only: fewer TLB misses in table lookups
    data_ = static_cast<T*>(memory);
  }
  AlignedArray(AlignedArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), elements_(std::exchange(other.elements_, 0)) {}
  AlignedArray& operator=(AlignedArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(elements_, other.elements_);
    return *this;
  }
  ~AlignedArray() {
    if (data_ != nullptr) munmap(data_, bytes());
  }

  std::span<T> values() { return {data_, elements_}; }
  std::span<const T> values() const { return {data_, elements_}; }
  size_t bytes() const { return elements_ * sizeof(T); }

 private:
  T* data_ = nullptr;
  size_t elements_ = 0;
};

}  // namespace smt::server
