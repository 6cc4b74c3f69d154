#include "reserved_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>

namespace smt::server {
namespace {

size_t round_up(size_t bytes, size_t unit = kHugePage) { return (bytes + unit - 1) / unit * unit; }

[[noreturn]] void fail(int error, const std::string& what) {
  throw std::system_error(error, std::generic_category(), what);
}

}  // namespace

ReservedMemory::ReservedMemory(size_t bytes) : bytes_(round_up(bytes)) {
  // A page of the ends belongs to nobody: the multiple of kHugePage lies somewhere in the first one.
  if (__builtin_add_overflow(bytes_, kHugePage, &mapped_) || bytes_ < bytes) {
    fail(ENOMEM, "cannot reserve " + std::to_string(bytes) + " bytes of addresses");
  }
  // Without access it is not counted as promised memory, and MAP_NORESERVE keeps the default policy from counting it
  // when access is given: what is resident is what was written.
  void* memory = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    fail(errno, "cannot reserve " + std::to_string(mapped_) + " bytes of addresses (see ulimit -v)");
  }
  mapping_ = static_cast<std::byte*>(memory);
  data_ = mapping_ + (kHugePage - reinterpret_cast<uintptr_t>(mapping_) % kHugePage) % kHugePage;
}

ReservedMemory::~ReservedMemory() { munmap(mapping_, mapped_); }

void ReservedMemory::grow(size_t end) {
  if (end <= accessible_) return;
  size_t more = round_up(end);
  if (mprotect(data_ + accessible_, more - accessible_, PROT_READ | PROT_WRITE) != 0) {
    fail(errno, "cannot use " + std::to_string(more - accessible_) + " further bytes of memory");
  }
  // From the start, so that it stays one mapping. Advice only.
  madvise(data_, more, MADV_HUGEPAGE);
  accessible_ = more;
}

void ReservedMemory::prefer_huge(size_t begin, size_t end, bool huge) {
  begin = begin / kHugePage * kHugePage;
  end = round_up(end);
  if (begin < end) madvise(data_ + begin, end - begin, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

void ReservedMemory::give_back(size_t begin, size_t end) {
  static const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  begin = round_up(begin, page);
  end = end / page * page;
  if (begin < end) madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

}  // namespace smt::server
