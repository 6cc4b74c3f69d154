// Calls at once from many threads: on programs and arenas that they share, and on the helpers of split_rows.
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>

#include "network.h"
#include "row_threads.h"

namespace smt::cpu::test {
namespace {

template <class Body>
void on_threads(int count, Body&& body) {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) threads.emplace_back([&body, i] { body(i); });
  for (std::thread& thread : threads) thread.join();
}

TEST(Threads, ShareProgramsAndArenas) {
  for (const Kernels* kernels : all_kernels()) {
    for (Precision precision : kPrecisions) {
      CompiledProgram deep(deep_program(precision, TableType::kFp16, 11));
      CompiledProgram dot(dot_program(precision, TableType::kInt8, 17, 2));
      Call deep_call(deep, *kernels, 60, 3, 1), dot_call(dot, *kernels, 35, 2, 2);
      execute(deep, *kernels, deep_call.inputs(), 0, 60);
      execute(dot, *kernels, dot_call.inputs(), 0, 35);
      std::vector<float> deep_expected = deep_call.result(), dot_expected = dot_call.result();
      std::atomic<int> wrong{0};
      on_threads(4, [&](int) {
        std::vector<float> deep_out(deep_expected.size()), dot_out(dot_expected.size());
        for (int i = 0; i < 5; ++i) {
          execute(deep, *kernels, deep_call.into(deep_out.data()), 0, 60);
          execute(dot, *kernels, dot_call.into(dot_out.data()), 0, 35);
          wrong += deep_out != deep_expected || dot_out != dot_expected;
        }
      });
      EXPECT_EQ(wrong.load(), 0) << kernels->name << ", precision " << static_cast<int64_t>(precision);
    }
  }
}

TEST(Threads, ChooseKernelsAtOnce) {
  on_threads(4, [](int) {
    for (const Kernels* kernels : available_kernels()) EXPECT_EQ(&choose_kernels(kernels->name), kernels);
    EXPECT_EQ(&choose_kernels(""), available_kernels().front());
  });
}

TEST(SplitRows, EveryRowOnce) {
  for (int64_t threads : {0, 1, 2, 3, 7}) {
    for (int64_t rows : {0, 1, 2, 5, 16, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(rows));
      split_rows(rows, threads, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) seen[static_cast<size_t>(r)] += 1;
      });
      for (const auto& count : seen) ASSERT_EQ(count.load(), 1) << rows << " rows, " << threads << " threads";
    }
  }
}

// What the parts wrote is visible to the caller, without atomics.
TEST(SplitRows, UnderContention) {
  std::atomic<int> wrong{0};
  on_threads(4, [&](int caller) {
    for (int call = 0; call < 200; ++call) {
      std::vector<int> seen(static_cast<size_t>(50 + caller));
      split_rows(50 + caller, 2 + call % 3, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) seen[static_cast<size_t>(r)] += call;
      });
      for (int count : seen) wrong += count != call;
    }
  });
  EXPECT_EQ(wrong.load(), 0);
}

// Helpers that went to sleep wake up for the next call.
TEST(SplitRows, AfterAPause) {
  for (int call = 0; call < 5; ++call) {
    std::atomic<int64_t> total{0};
    split_rows(64, 3, [&](int64_t first, int64_t last) { total += last - first; });
    EXPECT_EQ(total.load(), 64);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

TEST(SplitRows, AnExceptionReachesItsCallerAlone) {
  std::atomic<int> wrong{0};
  on_threads(4, [&](int caller) {
    for (int call = 0; call < 100; ++call) {
      bool fails = (caller + call) % 2 == 0, failed = false;
      try {
        split_rows(40, 3, [&](int64_t first, int64_t last) {
          if (fails && first <= 20 && 20 < last) throw std::runtime_error(std::to_string(caller));
        });
      } catch (const std::runtime_error& error) {
        failed = true;
        wrong += error.what() != std::to_string(caller);
      }
      wrong += failed != fails;
    }
  });
  EXPECT_EQ(wrong.load(), 0);
}

TEST(SplitRows, AllPartsFail) {
  for (int call = 0; call < 20; ++call) {
    EXPECT_THROW(split_rows(40, 4, [](int64_t, int64_t) { throw std::out_of_range("ids"); }), std::out_of_range);
  }
  std::atomic<int64_t> total{0};
  split_rows(40, 4, [&](int64_t first, int64_t last) { total += last - first; });
  EXPECT_EQ(total.load(), 40);
}

TEST(SplitRows, ExecutesParts) {
  CompiledProgram program(deep_program(Precision::kBf16, TableType::kFp32, 11));
  const Kernels& kernels = choose_kernels("");
  Call alone(program, kernels, 100, 2, 1), split(program, kernels, 100, 2, 1);
  execute(program, kernels, alone.inputs(), 0, 100);
  split_rows(100, 3, [&](int64_t first, int64_t last) { execute(program, kernels, split.inputs(), first, last); });
  std::vector<float> expected = alone.result(), found = split.result();
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 0.02F);
}

}  // namespace
}  // namespace smt::cpu::test
