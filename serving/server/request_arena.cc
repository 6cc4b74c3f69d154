#include "request_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace smt::server {
namespace {

constexpr size_t kSmallestBlock = 1024;
constexpr size_t kLargestBlock = size_t{256} << 10;

void* allocate(size_t size) {
  if (size < kLargestBlock) return ::operator new(size);
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return memory;
}

void deallocate(void* memory, size_t size) {
  if (size < kLargestBlock) {
    ::operator delete(memory);
  } else {
    munmap(memory, size);
  }
}

}  // namespace

google::protobuf::ArenaOptions request_arena(size_t request_bytes) {
  google::protobuf::ArenaOptions options;
  options.block_alloc = allocate;
  options.block_dealloc = deallocate;
  // Strings and columns take about twice their size on the wire: one block for most requests.
  options.start_block_size = std::clamp(2 * request_bytes, kSmallestBlock, kLargestBlock);
  options.max_block_size = kLargestBlock;
  return options;
}

}  // namespace smt::server
