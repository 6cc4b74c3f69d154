// check() and append(): whatever the ranges, and whatever else is in the batch, a row is what apply() makes of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>
#include <vector>

#include "random_request.h"
#include "test_spec.h"
#include "transform.h"

namespace {

std::atomic<int64_t> g_allocations{0};
// The allocation of this number fails, counted from now; negative: none does.
std::atomic<int64_t> g_fails_in{-1};

}  // namespace

// The other forms call these. Not inlined: GCC would take the free() it then sees for a mistake.
void* operator new(size_t bytes) {
  g_allocations.fetch_add(1);
  if (g_fails_in.load() >= 0 && g_fails_in.fetch_sub(1) == 0) throw std::bad_alloc();
  void* memory = nullptr;
  if (posix_memalign(&memory, alignof(std::max_align_t), bytes) != 0) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace smt::transform {
namespace {

constexpr Slots kSlots;

// One row as the template binary sees it: nothing says any more which bag holds its ids.
struct Row {
  std::vector<float> dense;
  std::vector<std::vector<int64_t>> bags;  // [slots], the ids of each
  bool operator==(const Row&) const = default;
};

// All rows of a batch; also checks that it is well formed.
std::vector<Row> rows_of(const Batch& batch) {
  const auto rows = static_cast<size_t>(batch.rows);
  const auto dense = static_cast<size_t>(batch.dense_slots);
  const auto slots = static_cast<size_t>(batch.categorical_slots);
  EXPECT_EQ(batch.dense.size(), rows * dense);
  EXPECT_EQ(batch.bag_index.size(), rows * slots);
  EXPECT_GE(batch.offsets.size(), rows > 0 ? 3u : 2u);
  EXPECT_EQ(batch.offsets[0], 0);
  EXPECT_EQ(batch.offsets[1], 0);
  EXPECT_TRUE(std::is_sorted(batch.offsets.begin(), batch.offsets.end()));
  EXPECT_EQ(batch.offsets.back(), static_cast<int64_t>(batch.ids.size()));
  std::vector<Row> out(rows);
  for (size_t row = 0; row < rows; ++row) {
    out[row].dense.assign(batch.dense.begin() + static_cast<int64_t>(row * dense),
                          batch.dense.begin() + static_cast<int64_t>((row + 1) * dense));
    for (size_t slot = 0; slot < slots; ++slot) {
      const auto bag = static_cast<size_t>(batch.bag_index[row * slots + slot]);
      EXPECT_LT(bag + 1, batch.offsets.size());
      out[row].bags.emplace_back(batch.ids.begin() + batch.offsets[bag], batch.ids.begin() + batch.offsets[bag + 1]);
    }
  }
  return out;
}

std::vector<Row> applied(const FeatureSpec& spec, const Request& request, bool local_ids = false) {
  Batch batch;
  spec.apply(request.rows, request.context, request.candidates, {}, batch, local_ids);
  return rows_of(batch);
}

Row zeros(const Slots& slots) {
  return {std::vector<float>(static_cast<size_t>(slots.dense)),
          std::vector<std::vector<int64_t>>(static_cast<size_t>(slots.categorical))};
}

void expect_same(const Batch& a, const Batch& b) {
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.dense, b.dense);
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.offsets, b.offsets);
  EXPECT_EQ(a.bag_index, b.bag_index);
}

TEST(Append, EveryRangeIsThatPartOfTheWhole) {
  Random random(1);
  CheckedColumns checked;
  Batch batch;
  for (int i = 0; i < 20; ++i) {
    const FeatureSpec spec = random_spec(random, kSlots);
    const Request request(random, spec, pick(random, 1, 70));
    const std::vector<Row> all = applied(spec, request);
    ASSERT_EQ(static_cast<int64_t>(all.size()), request.rows);
    spec.check(request.rows, request.context, request.candidates, {}, checked);
    for (int64_t first = 0; first <= request.rows; ++first) {
      for (int64_t count = 0; first + count <= request.rows; ++count) {
        batch.clear();
        spec.append(checked, first, count, batch);
        ASSERT_EQ(rows_of(batch), std::vector<Row>(all.begin() + first, all.begin() + first + count))
            << "spec " << i << ", rows " << first << ".." << first + count << " of " << request.rows;
      }
    }
  }
}

TEST(Append, RequestsOfSeveralSpecsShareABatch) {
  Random random(2);
  CheckedColumns checked;
  Batch batch;
  int64_t appends = 0;
  for (int i = 0; i < 300; ++i) {
    batch.clear();
    std::vector<Row> expected;
    for (int64_t requests = pick(random, 1, 5); requests > 0; --requests) {
      const FeatureSpec spec = random_spec(random, kSlots);
      const Request request(random, spec, pick(random, 1, 150));
      const bool local_ids = chance(random, 20);
      const std::vector<Row> rows = applied(spec, request, local_ids);
      spec.check(request.rows, request.context, request.candidates, {}, checked);
      for (int64_t first = 0; first < request.rows;) {
        const int64_t count = pick(random, 0, request.rows - first);
        spec.append(checked, first, count, batch, local_ids);
        expected.insert(expected.end(), rows.begin() + first, rows.begin() + first + count);
        first += count;
        ++appends;
        const int64_t padding = chance(random, 30) ? pick(random, 0, 20) : 0;
        batch.pad(padding);
        expected.resize(expected.size() + static_cast<size_t>(padding), zeros(kSlots));
      }
    }
    ASSERT_EQ(rows_of(batch), expected) << "batch " << i;
  }
  EXPECT_GT(appends, 1000);
}

TEST(Append, AContextColumnIsOneBagPerCall) {
  const FeatureSpec spec = FeatureSpec::parse(kSpec);
  const std::vector<float> age(10, 3.0f);
  const std::vector<std::string_view> education = {"b"};
  const std::vector<std::string_view> genres = {"g", "h"};
  const std::vector<int32_t> lengths = {2};
  const std::vector<Column> context = {{"education", StringValues(education), {}},
                                       {"genres", StringValues(genres), lengths}};
  const std::vector<Column> candidates = {{"age", FloatValues(age), {}}};
  CheckedColumns checked;
  spec.check(10, context, candidates, {}, checked);
  Batch batch;
  spec.append(checked, 0, 4, batch);
  // Bag 0, a bucket of age for each row, and one each of education, genres, weeks and user (the two not sent).
  EXPECT_EQ(batch.offsets.size(), 1u + 1 + 4 + 4);
  EXPECT_EQ(batch.ids.size(), 4u + 1 + 2 + 1 + 1);
  spec.append(checked, 4, 6, batch);
  EXPECT_EQ(batch.offsets.size(), 1u + 1 + 10 + 8);
  EXPECT_EQ(batch.ids.size(), 10u + 2 + 4 + 2 + 2);
  for (int64_t row : {4, 9}) EXPECT_EQ(batch.bag_index[static_cast<size_t>(row * 6 + 5)], 9 + 6);
  spec.append(checked, 10, 0, batch);
  EXPECT_EQ(batch.offsets.size(), 1u + 1 + 10 + 8);
  EXPECT_EQ(batch.rows, 10);
}

TEST(Append, TwoBagsOnceThereAreRows) {
  const FeatureSpec spec = FeatureSpec::parse(
      R"({"format": 1, "dense_slots": 1, "categorical_slots": 2, "table_rows": 0, "features": [
          {"name": "x", "input": "x", "type": "number", "required": false, "kind": "dense", "slot": 0, "steps": []}]})");
  CheckedColumns checked;
  spec.check(2, {}, {}, {}, checked);
  Batch batch;
  spec.append(checked, 0, 0, batch);
  EXPECT_EQ(batch.offsets, (std::vector<int64_t>{0, 0}));
  batch.pad(3);
  EXPECT_EQ(batch.offsets, (std::vector<int64_t>{0, 0, 0}));
  spec.append(checked, 0, 2, batch);
  EXPECT_EQ(batch.offsets, (std::vector<int64_t>{0, 0, 0}));
  EXPECT_EQ(batch.rows, 5);
  batch.clear();
  spec.append(checked, 1, 1, batch);
  EXPECT_EQ(batch.offsets, (std::vector<int64_t>{0, 0, 0}));
}

TEST(Append, AllocatesNothingOnReuse) {
  Random random(3);
  for (int i = 0; i < 30; ++i) {
    const FeatureSpec spec = random_spec(random, kSlots);
    const Request request(random, spec, 300);
    CheckedColumns checked;
    Batch batch;
    const auto all = [&] {
      spec.check(request.rows, request.context, request.candidates, {}, checked);
      batch.clear();
      for (int64_t first = 0; first < request.rows; first += 50) spec.append(checked, first, 50, batch);
      batch.pad(16);
    };
    const int64_t start = g_allocations.load();
    all();
    const int64_t before = g_allocations.load();
    EXPECT_GT(before, start);
    for (int repeat = 0; repeat < 3; ++repeat) all();
    EXPECT_EQ(g_allocations.load(), before) << "spec " << i;
  }
}

// Each allocation in turn fails; every time the batch is what it was, and goes on from there.
TEST(Append, WithoutMemoryTheBatchIsAsItWas) {
  Random random(4);
  int64_t failures = 0;
  for (int i = 0; i < 30; ++i) {
    const FeatureSpec spec = random_spec(random, kSlots);
    const Request request(random, spec, 40);
    CheckedColumns checked;
    spec.check(request.rows, request.context, request.candidates, {}, checked);
    for (int64_t nth = 0;; ++nth) {
      Batch batch;
      spec.append(checked, 5, 7, batch);
      const Batch before = batch;
      bool failed = false;
      g_fails_in = nth;
      try {
        spec.append(checked, 0, 40, batch);
        batch.pad(1000);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
      g_fails_in = -1;
      if (!failed) break;
      ++failures;
      if (batch.rows == before.rows) {
        expect_same(batch, before);
        spec.append(checked, 0, 40, batch);
      }
      EXPECT_EQ(batch.rows, 47);  // append() did its work if it was pad() that failed
      std::vector<Row> rows = rows_of(batch);
      EXPECT_EQ(std::vector<Row>(rows.begin() + 7, rows.end()), applied(spec, request));
    }
  }
  EXPECT_GT(failures, 100);
}

TEST(Append, CheckedColumnsAreReusedAfterAnError) {
  Random random(5);
  CheckedColumns checked;
  for (int i = 0; i < 50; ++i) {
    const FeatureSpec spec = random_spec(random, kSlots);
    const Request request(random, spec, 20);
    std::vector<Column> wrong = request.candidates;
    wrong.push_back({"not an input", {}, {}});
    EXPECT_THROW(spec.check(request.rows, request.context, wrong, {}, checked), InputError);
    spec.check(request.rows, request.context, request.candidates, {}, checked);
    Batch batch;
    spec.append(checked, 0, request.rows, batch);
    EXPECT_EQ(rows_of(batch), applied(spec, request));
  }
}

// One request's columns, many threads, a range and a batch each. ThreadSanitizer is the judge of the first half.
TEST(Append, ThreadsShareOneRequest) {
  Random random(6);
  for (int i = 0; i < 10; ++i) {
    const FeatureSpec spec = random_spec(random, kSlots);
    const Request request(random, spec, 400);
    CheckedColumns checked;
    spec.check(request.rows, request.context, request.candidates, {}, checked);
    std::vector<Batch> parts(4);
    {
      std::vector<std::jthread> threads;
      for (size_t t = 0; t < parts.size(); ++t) {
        threads.emplace_back([&, t] { spec.append(checked, static_cast<int64_t>(t) * 100, 100, parts[t]); });
      }
    }
    std::vector<Row> rows;
    for (const Batch& part : parts) {
      for (Row& row : rows_of(part)) rows.push_back(std::move(row));
    }
    EXPECT_EQ(rows, applied(spec, request));
  }
}

TEST(Append, SaysWhichInputsASpecReads) {
  const FeatureSpec spec = FeatureSpec::parse(kSpec);
  for (const InputInfo& input : spec.inputs()) EXPECT_TRUE(spec.reads(input.name));
  EXPECT_FALSE(spec.reads("age_bucket"));  // a feature, of the input `age`
  EXPECT_FALSE(spec.reads(""));
}

}  // namespace
}  // namespace smt::transform
