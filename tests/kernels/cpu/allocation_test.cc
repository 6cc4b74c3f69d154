// After a first call, execute() allocates nothing, whatever the kernels and the precision.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "network.h"

namespace {

std::atomic<int64_t> g_allocations{0};

void* allocate(size_t bytes, size_t alignment) {
  g_allocations.fetch_add(1);
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment < sizeof(void*) ? sizeof(void*) : alignment, bytes) != 0)
    throw std::bad_alloc();
  return memory;
}

}  // namespace

// The other forms call these.
void* operator new(size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(size_t bytes, std::align_val_t alignment) { return allocate(bytes, static_cast<size_t>(alignment)); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace smt::cpu::test {
namespace {

TEST(Allocation, IsCounted) {
  int64_t before = g_allocations.load();
  AlignedMemory memory(100);
  EXPECT_EQ(g_allocations.load(), before + 1);
}

TEST(Allocation, NoneAfterTheFirstCall) {
  for (const Kernels* kernels : all_kernels()) {
    for (Precision precision : kPrecisions) {
      CompiledProgram deep(deep_program(precision, TableType::kFp16, 11));
      CompiledProgram dot(dot_program(precision, TableType::kInt8, 17, 2));
      Call large(deep, *kernels, 200, 3, 1), small(deep, *kernels, 33, 2, 2);
      Call one(deep, *kernels, 1, 1, 3), other(dot, *kernels, 97, 2, 4);
      auto all = [&] {
        execute(deep, *kernels, large.inputs(), 0, large.rows());
        execute(dot, *kernels, other.inputs(), 0, other.rows());
        execute(deep, *kernels, small.inputs(), 0, small.rows());
        execute(deep, *kernels, one.inputs(), 0, one.rows());
      };
      all();
      int64_t before = g_allocations.load();
      for (int i = 0; i < 3; ++i) all();
      EXPECT_EQ(g_allocations.load(), before) << kernels->name << ", precision " << static_cast<int64_t>(precision);
    }
  }
}

}  // namespace
}  // namespace smt::cpu::test
