#include "weight_arena.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <latch>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "resident_bytes.h"

namespace smt::server {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
// Slots of 1 KiB: four share a page. Rows of 12 bytes: every 16th begins a cache line, where a table may begin.
constexpr int64_t kSlotBytes = 1024;
constexpr int64_t kDim = 3;
constexpr int64_t kLineRows = 16;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kPlainMemory = false;  // what a sanitizer notes about memory is resident too
#else
constexpr bool kPlainMemory = true;
#endif

std::shared_ptr<WeightArena> arena(int64_t slots = 64, int64_t pool_bytes = 64 * kMiB) {
  return std::make_shared<WeightArena>(kSlotBytes, kDim, ArenaBounds{.slots = slots, .pool_bytes = pool_bytes});
}

void fill(WeightSlot& slot, float value) {
  std::memset(slot.packed().data(), static_cast<int>(value), slot.packed().size());
  std::ranges::fill(slot.table(), value);
}

bool holds(const WeightSlot& slot, float value) {
  return std::ranges::all_of(slot.packed(), [&](std::byte b) { return b == std::byte(static_cast<int>(value)); }) &&
         std::ranges::all_of(slot.table(), [&](float f) { return f == value; });
}

int64_t first_row(const WeightArena& arena, const WeightSlot& slot) { return arena.view().pool_base[slot.index()]; }

template <typename Error, typename Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(WeightArena, TheViewShowsWhereEachSlotLies) {
  auto made = arena();
  WeightSlot a(made, 10);
  WeightSlot b(made, 2000);
  EXPECT_EQ(a.index(), 0);
  EXPECT_EQ(b.index(), 1);
  EXPECT_EQ(b.bytes(), kSlotBytes + 2000 * kDim * 4);
  WeightArena::View view = made->view();
  EXPECT_EQ(view.slot_count, 2);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(view.slots) % 64, 0U);
  for (const WeightSlot* slot : {&a, &b}) {
    EXPECT_EQ(slot->packed().data(), view.slots + slot->index() * kSlotBytes);
    EXPECT_EQ(slot->packed().size(), static_cast<size_t>(kSlotBytes));
    int64_t base = view.pool_base[slot->index()];
    EXPECT_EQ(slot->table().data(), view.pool + base * kDim);
    EXPECT_EQ(static_cast<int64_t>(slot->table().size()), slot->table_rows() * kDim);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(slot->table().data()) % 64, 0U);
    EXPECT_LE(base + slot->table_rows(), view.pool_rows);
  }
  EXPECT_EQ(view.pool_rows, kLineRows + 2000) << "no row outside may be asked for";
}

TEST(WeightArena, FreedPlacesAreTakenAgainLowestFirst) {
  auto made = arena();
  std::vector<WeightSlot> slots;
  for (int i = 0; i < 6; ++i) slots.emplace_back(made, kLineRows);
  int64_t third = first_row(*made, slots[3]);
  slots[3] = {};
  slots[1] = {};
  slots[1] = WeightSlot(made, kLineRows);
  EXPECT_EQ(slots[1].index(), 1);
  EXPECT_EQ(first_row(*made, slots[1]), kLineRows);
  slots[3] = WeightSlot(made, kLineRows);
  EXPECT_EQ(slots[3].index(), 3);
  EXPECT_EQ(first_row(*made, slots[3]), third);
  EXPECT_EQ(made->view().slot_count, 6);
}

TEST(WeightArena, NeighbouringGapsBecomeOne) {
  auto made = arena();
  std::vector<WeightSlot> slots;
  for (int i = 0; i < 5; ++i) slots.emplace_back(made, kLineRows);
  // Freed in an order in which the last one has a gap on either side.
  for (size_t i : {1U, 3U, 2U}) slots[i] = {};
  WeightSlot large(made, 3 * kLineRows);
  EXPECT_EQ(first_row(*made, large), kLineRows) << "in the gap of three";
  WeightSlot next(made, 1);
  EXPECT_EQ(first_row(*made, next), 5 * kLineRows) << "nothing is left before the end";
}

TEST(WeightArena, ATableWithoutRowsHasAPlaceToo) {
  auto made = arena();
  WeightSlot none(made, 0);
  WeightSlot other(made, 0);
  EXPECT_TRUE(none.table().empty());
  EXPECT_NE(first_row(*made, none), first_row(*made, other));
}

// Slots share pages with up to four others, of which some are freed, taken and written at random.
TEST(WeightArena, FreeingLeavesNeighboursAlone) {
  auto made = arena(40);
  std::mt19937 random(3);
  std::vector<std::optional<WeightSlot>> slots(40);
  std::vector<float> values(40);
  for (int round = 0; round < 3000; ++round) {
    size_t at = random() % slots.size();
    if (slots[at]) {
      slots[at].reset();
    } else {
      values[at] = static_cast<float>(1 + random() % 100);
      fill(slots[at].emplace(made, static_cast<int64_t>(random() % 3000)), values[at]);
    }
    for (size_t other : {(at + 1) % 40, (at + 39) % 40}) {
      ASSERT_TRUE(!slots[other] || holds(*slots[other], values[other])) << "round " << round;
    }
  }
  for (size_t i = 0; i < slots.size(); ++i) EXPECT_TRUE(!slots[i] || holds(*slots[i], values[i])) << i;
}

TEST(WeightArena, ReservingCostsNoMemory) {
  int64_t before = resident_bytes();
  WeightArena large(64 * kMiB, 16);
  EXPECT_LT(resident_bytes(), before + kMiB);
}

// What a snapshot costs is its own bytes, whatever the sizes; and all of it comes back, but for what may be kept.
TEST(WeightArena, MemoryIsTheWeightsAndComesBack) {
  if (!kPlainMemory) GTEST_SKIP() << "a sanitizer's notes are resident too";
  constexpr int kCount = 24;
  struct Case {
    int64_t slot_bytes;
    int64_t rows;
    int64_t keep;
  };
  // Below a page, between pages, around huge pages; the last ones' tables are of huge pages mostly.
  for (Case test :
       {Case{192, 5, 0}, Case{100 * 1024 + 64, 3000, 0}, Case{kMiB + 4160, 40'000, 0}, Case{3 * kMiB + 64, 70'001, 0},
        Case{kMiB + 4160, 40'000, 8 * kMiB}, Case{3 * kMiB + 64, 70'001, kMiB}}) {
    ArenaBounds bounds;
    bounds.keep_bytes = test.keep;
    auto made = std::make_shared<WeightArena>(test.slot_bytes, 16, bounds);
    int64_t before = resident_bytes();
    std::vector<WeightSlot> slots;
    int64_t in_use = 0;
    for (int i = 0; i < kCount; ++i) {
      fill(slots.emplace_back(made, test.rows), 1);
      in_use += slots.back().bytes();
      // A huge page that is not full yet in either array, and what the test itself allocates.
      EXPECT_LT(resident_bytes() - before, in_use + 4 * kMiB + kMiB / 2) << test.slot_bytes << " " << i;
    }
    EXPECT_GE(resident_bytes() - before, in_use - kMiB / 2);
    // Half of them replaced, as swaps do: new ones beside the old.
    for (int i = 0; i < kCount; i += 2) {
      WeightSlot next(made, test.rows);
      fill(next, 2);
      slots[static_cast<size_t>(i)] = std::move(next);
    }
    EXPECT_LT(resident_bytes() - before, in_use + in_use / kCount + 4 * kMiB + kMiB / 2) << test.slot_bytes;
    slots.clear();
    EXPECT_LT(resident_bytes() - before, test.keep + kMiB / 2) << test.slot_bytes;
  }
}

// The next version of a scenario finds the pages that the last one left: nobody clears, maps and unmaps them.
TEST(WeightArena, PagesStayForTheNextVersion) {
  constexpr int64_t kRows = 100'000;  // 1.2 MB
  auto left = [&](int64_t keep) {     // whether the table of the next version holds what the last one left
    auto made = std::make_shared<WeightArena>(kSlotBytes, kDim,
                                              ArenaBounds{.slots = 4, .pool_bytes = 64 * kMiB, .keep_bytes = keep});
    WeightSlot first(made, kRows);
    fill(first, 7);
    first = {};
    WeightSlot next(made, kRows);
    return next.table()[kRows] == 7;
  };
  EXPECT_TRUE(left(2 * kMiB));
  EXPECT_FALSE(left(kMiB)) << "too large to be kept";
  EXPECT_FALSE(left(0));
}

// Each version in the place of the one before the last, as a scenario's versions lie: what is taken again does not
// count as kept, so that this may go on.
TEST(WeightArena, PagesStayForEveryNextVersion) {
  constexpr int64_t kRows = 100'000;
  auto made = std::make_shared<WeightArena>(kSlotBytes, kDim,
                                            ArenaBounds{.slots = 4, .pool_bytes = 64 * kMiB, .keep_bytes = 2 * kMiB});
  std::array<WeightSlot, 2> versions{WeightSlot(made, kRows), WeightSlot(made, kRows)};
  for (WeightSlot& version : versions) fill(version, 7);
  for (size_t i = 0; i < 20; ++i) {
    versions[i % 2] = {};
    {  // also of others, in parts of it
      WeightSlot part(made, kRows / 4);
      WeightSlot another(made, kRows / 2);
      ASSERT_EQ(part.table()[1000], 7) << i;
      ASSERT_EQ(another.table()[1000], 7) << i;
    }
    versions[i % 2] = WeightSlot(made, kRows);
    ASSERT_EQ(versions[i % 2].table().front(), 7) << i;
    ASSERT_EQ(versions[i % 2].table().back(), 7) << i;
    ASSERT_EQ(versions[i % 2].packed()[0], std::byte(7)) << i;
    fill(versions[i % 2], 7);
  }
}

TEST(WeightArena, PagesThatNobodyTakesGoBack) {
  if (!kPlainMemory) GTEST_SKIP() << "a sanitizer's notes are resident too";
  constexpr int64_t kRows = 1'000'000;  // 12 MB
  auto made = std::make_shared<WeightArena>(
      kSlotBytes, kDim, ArenaBounds{.slots = 8, .pool_bytes = 128 * kMiB, .keep_bytes = 100 * kMiB});
  WeightSlot stays(made, kRows);
  fill(stays, 3);
  const int64_t before = resident_bytes();
  {
    WeightSlot first(made, kRows);
    WeightSlot second(made, 2 * kRows);
    fill(first, 1);
    fill(second, 2);
  }
  const auto freed = std::chrono::steady_clock::now();
  made->trim(freed - std::chrono::hours(1));
  EXPECT_GT(resident_bytes(), before + 30 * kMiB) << "freed later than that";
  made->trim(freed);
  EXPECT_LT(resident_bytes(), before + kMiB / 2);
  EXPECT_TRUE(holds(stays, 3));
  WeightSlot next(made, kRows);
  EXPECT_EQ(next.table()[1000], 0);
}

TEST(WeightArena, SaysWhatIsExhausted) {
  auto made = arena(2, static_cast<int64_t>(kHugePage));  // 174762 rows
  WeightSlot a(made, 100'000);
  EXPECT_EQ(message_of<ArenaError>([&] { WeightSlot(made, 80'000); }),
            "a table of 960000 bytes: no gap of that size in the 2097152 bytes of the template binary's pool, which "
            "holds 1 tables; expected one (serve fewer scenarios of the template from this process)");
  EXPECT_EQ(message_of<ArenaError>([&] { WeightSlot(made, INT64_MAX); }).find("a table of 9223372036854775807 bytes"),
            0U);
  WeightSlot b(made, 70'000);
  EXPECT_EQ(message_of<ArenaError>([&] { WeightSlot(made, 1); }),
            "weights of a further scenario: all 2 slots of the template binary are taken; expected a free one (serve "
            "fewer scenarios of the template from this process)");
  a = {};
  EXPECT_NO_THROW(WeightSlot(made, 80'000)) << "a failure takes nothing";
}

TEST(WeightArena, RefusesSizesThatAreNone) {
  EXPECT_EQ(message_of<std::invalid_argument>([] { WeightArena(100, 4); }),
            "slot_bytes: found 100; expected a multiple of 64 in 1..17592186044416");
  EXPECT_EQ(message_of<std::invalid_argument>([] { WeightArena(64, 0); }),
            "dim: found 0; expected a multiple of 1 in 1..17592186044416");
  EXPECT_EQ(message_of<std::invalid_argument>([] { WeightSlot(arena(), -1); }),
            "table_rows: found -1; expected 0 or more");
  EXPECT_NE(message_of<ArenaError>([] { WeightArena(int64_t{1} << 40, 4); }).find("cannot reserve"), std::string::npos)
      << "more than a process can address";
}

// The system's own limits, for as long as one of these lives.
class Limit {
 public:
  Limit(int resource, const char* used, int64_t more) : resource_(resource) {
    std::ifstream status("/proc/self/status");
    std::string word;
    rlim_t kilobytes = 0;
    while (status >> word && word != used) {
    }
    status >> kilobytes;
    getrlimit(static_cast<__rlimit_resource>(resource_), &before_);
    rlimit tight = before_;
    tight.rlim_cur = kilobytes * 1024 + static_cast<rlim_t>(more);
    setrlimit(static_cast<__rlimit_resource>(resource_), &tight);
  }
  ~Limit() { setrlimit(static_cast<__rlimit_resource>(resource_), &before_); }

 private:
  int resource_;
  rlimit before_{};
};

TEST(WeightArena, SaysWhenTheSystemRefusesMemory) {
  if (!kPlainMemory) GTEST_SKIP() << "a sanitizer needs memory of its own";
  {
    Limit limit(RLIMIT_AS, "VmSize:", 16 * kMiB);
    std::string message = message_of<ArenaError>([] { arena(4, 32 * kMiB); });
    EXPECT_EQ(message,
              "memory for weights: cannot reserve 35651584 bytes of addresses (see ulimit -v): Cannot allocate memory");
  }
  auto made = std::make_shared<WeightArena>(4 * kMiB, kDim, ArenaBounds{.slots = 64, .pool_bytes = 64 * kMiB});
  WeightSlot first(made, 1);
  {
    Limit limit(RLIMIT_DATA, "VmData:", kMiB);
    std::string message = message_of<ArenaError>([&] { WeightSlot(made, 1); });
    EXPECT_EQ(message,
              "dense weights of 4194304 bytes: cannot use 4194304 further bytes of memory: Cannot allocate memory");
  }
  EXPECT_EQ(WeightSlot(made, 1).index(), 1) << "nothing was taken";
}

// Versions are published, read and dropped by several threads, which each hold what they read, as requests do. The last
// of them frees it, wherever that is.
TEST(WeightArena, ThreadsTakeReadAndFree) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 400;
  auto made = arena();
  struct Version {
    WeightSlot slot;
    float value;
  };
  std::mutex mutex;  // guards current
  std::array<std::shared_ptr<const Version>, 3> current;
  std::atomic<int> wrong{0};
  std::atomic<int> reads{0};
  std::latch started(kThreads);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      std::mt19937 random(static_cast<uint32_t>(i));
      started.arrive_and_wait();
      for (int round = 0; round < kRounds; ++round) {
        size_t scenario = random() % current.size();
        if (round % 4 == 0) {
          auto next = std::make_shared<Version>(WeightSlot(made, static_cast<int64_t>(1 + random() % 2000)),
                                                static_cast<float>(1 + random() % 100));
          fill(next->slot, next->value);
          std::shared_ptr<const Version> replaced = next;  // dropped outside the lock
          std::lock_guard lock(mutex);
          current[scenario].swap(replaced);
          continue;
        }
        std::shared_ptr<const Version> held;
        {
          std::lock_guard lock(mutex);
          held = current[scenario];
        }
        if (!held) continue;
        ++reads;
        // As the op finds them.
        WeightArena::View view = made->view();
        int64_t row = view.pool_base[held->slot.index()];
        if (held->slot.index() >= view.slot_count || row + held->slot.table_rows() > view.pool_rows) ++wrong;
        if (view.pool + row * kDim != held->slot.table().data() || !holds(held->slot, held->value)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(reads, kThreads * kRounds / 4);
  EXPECT_LE(made->view().slot_count, static_cast<int64_t>(current.size()) + 3 * kThreads) << "freed slots are reused";
  current = {};
  EXPECT_EQ(WeightSlot(made, 1).index(), 0);
}

// A slot keeps the arena alive.
TEST(WeightArena, ASlotOutlivesTheBinary) {
  auto made = arena();
  std::weak_ptr<WeightArena> seen = made;
  WeightSlot slot(made, 10);
  made.reset();
  fill(slot, 4);
  WeightSlot moved = std::move(slot);
  EXPECT_TRUE(holds(moved, 4));
  moved = {};
  EXPECT_TRUE(seen.expired());
}

#if defined(__SANITIZE_ADDRESS__)
TEST(WeightArenaDeathTest, AddressSanitizerNoticesAReadOfFreedWeights) {
  auto made = arena();
  WeightSlot slot(made, 10);
  fill(slot, 1);
  const float* table = slot.table().data();
  const std::byte* packed = slot.packed().data();
  slot = {};
  EXPECT_DEATH(EXPECT_EQ(*table, 0.0F), "use-after-poison");
  EXPECT_DEATH(EXPECT_EQ(*packed, std::byte{}), "use-after-poison");
}
#endif

}  // namespace
}  // namespace smt::server
