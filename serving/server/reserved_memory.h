// Addresses reserved for memory that is needed bit by bit and must not move: a reservation costs neither memory nor a
// share of what the system promises (commit charge) until a part of it is used.
#pragma once

#include <cstddef>

namespace smt::server {

inline constexpr size_t kHugePage = size_t{2} << 20;

// Owns [data(), data() + bytes()), aligned to kHugePage. Of it, [0, accessible()), whole huge pages, may be read and
// written: zeros until written, and resident by the huge page where the kernel has some. What was made accessible stays
// so, because code that checks a position against that bound may run at any moment; only its pages go back to the
// system.
//
// grow() wants to be alone; give_back() may be called by several threads at once, for ranges that nobody uses.
class ReservedMemory {
 public:
  // Throws std::system_error: no such range of addresses is free, or a limit (ulimit -v) forbids it.
  explicit ReservedMemory(size_t bytes);
  ReservedMemory(const ReservedMemory&) = delete;
  ReservedMemory& operator=(const ReservedMemory&) = delete;
  ~ReservedMemory();

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  size_t accessible() const { return accessible_; }

  // Makes at least [0, end) accessible, end <= bytes(). Throws std::system_error when the system does not promise the
  // memory.
  void grow(size_t end);

  // Whether [begin, end) and what shares huge pages with it is to be of huge pages, or of small ones. Advice, until
  // grow() gives it anew.
  void prefer_huge(size_t begin, size_t end, bool huge);

  // Gives the pages that lie wholly inside [begin, end) back to the system: they hold zeros then, or, where the system
  // refuses (locked memory), what they held.
  void give_back(size_t begin, size_t end);

 private:
  std::byte* mapping_ = nullptr;  // what was mapped; data_ is the first multiple of kHugePage in it
  size_t mapped_ = 0;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  size_t accessible_ = 0;
};

}  // namespace smt::server
