#include "row_overlay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <vector>

namespace smt::server {
namespace {

constexpr int64_t kDim = 3;

std::shared_ptr<WeightArena> arena() {
  return std::make_shared<WeightArena>(64, kDim, ArenaBounds{.slots = 4, .pool_bytes = int64_t{64} << 20});
}

// A table of which row i holds the float `version` + i.
std::shared_ptr<PoolRange> table(const std::shared_ptr<WeightArena>& arena, int64_t rows) {
  auto made = std::make_shared<PoolRange>(arena, rows);
  std::iota(made->values().begin(), made->values().end(), 0.0F);
  return made;
}

DeltaRows delta(const std::shared_ptr<WeightArena>& arena, std::vector<int64_t> rows) {
  auto values = std::make_shared<PoolRange>(arena, static_cast<int64_t>(rows.size()));
  return {std::move(rows), std::move(values)};
}

std::vector<int64_t> all_resolved(const RowOverlay& overlay) {
  std::vector<int64_t> ids(static_cast<size_t>(overlay.table_rows()));
  std::iota(ids.begin(), ids.end(), 0);
  overlay.resolve(ids);
  return ids;
}

std::vector<int64_t> some_rows(std::mt19937_64& random, int64_t table_rows, int64_t count) {
  std::set<int64_t> rows;
  while (static_cast<int64_t>(rows.size()) < count) rows.insert(static_cast<int64_t>(random() % table_rows));
  return {rows.begin(), rows.end()};
}

TEST(RowOverlay, AnEmptyDeltaChangesNothing) {
  auto pool = arena();
  PoolRange below(pool, 100);  // so that the table does not begin at row 0
  auto base = table(pool, 130);
  std::vector<DeltaRows> deltas{delta(pool, {})};
  RowOverlay overlay(*base, nullptr, deltas, 130);
  EXPECT_EQ(overlay.changed_rows(), 0);
  std::vector<int64_t> ids = all_resolved(overlay);
  for (int64_t row = 0; row < 130; ++row) EXPECT_EQ(ids[static_cast<size_t>(row)], base->first_row() + row);
  overlay.resolve({});
}

TEST(RowOverlay, ADeltaOfAllRowsLeavesNothingOfTheTable) {
  auto pool = arena();
  auto base = table(pool, 64);
  std::vector<int64_t> rows(64);
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<DeltaRows> deltas{delta(pool, rows)};
  RowOverlay overlay(*base, nullptr, deltas, 64);
  std::vector<int64_t> ids = all_resolved(overlay);
  for (int64_t row = 0; row < 64; ++row) EXPECT_EQ(ids[static_cast<size_t>(row)], deltas[0].values->first_row() + row);
}

// Random chains, each version on the one before or several deltas at once, over tables that grow: as a std::map has it.
TEST(RowOverlay, IsAMapFromRowsToTheNewestPlace) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 200; ++round) {
    auto pool = arena();
    PoolRange below(pool, static_cast<int64_t>(random() % 50));
    auto rows = static_cast<int64_t>(2 + random() % 300);  // seldom a multiple of the words of the bitmap
    auto base = table(pool, rows);
    std::map<int64_t, int64_t> expected;
    for (int64_t row = 0; row < rows; ++row) expected[row] = base->first_row() + row;
    std::unique_ptr<RowOverlay> version;
    for (int link = 0; link < 5; ++link) {
      std::vector<DeltaRows> deltas;
      for (uint64_t i = 0; i <= random() % 3; ++i) {
        int64_t before = rows;
        if (random() % 3 == 0) rows += static_cast<int64_t>(random() % 70);
        std::vector<int64_t> changed = some_rows(random, before, static_cast<int64_t>(random() % (before + 1)));
        for (int64_t row = before; row < rows; ++row) changed.push_back(row);
        deltas.push_back(delta(pool, changed));
        int64_t place = deltas.back().values->first_row();
        for (int64_t row : changed) expected[row] = place++;
      }
      version = std::make_unique<RowOverlay>(*base, version.get(), deltas, rows);
      std::vector<int64_t> ids = all_resolved(*version);
      for (const auto& [row, place] : expected) ASSERT_EQ(ids[static_cast<size_t>(row)], place) << round << " " << row;
      ASSERT_EQ(static_cast<int64_t>(expected.size()), version->table_rows());
    }
  }
}

TEST(RowOverlay, KeepsTheRowsOfOlderVersionsAlive) {
  auto pool = arena();
  auto base = table(pool, 10);
  std::vector<DeltaRows> first{delta(pool, {3})};
  std::vector<DeltaRows> second{delta(pool, {5})};
  std::weak_ptr<const PoolRange> seen = first[0].values;
  auto older = std::make_unique<RowOverlay>(*base, nullptr, first, 10);
  auto newer = std::make_unique<RowOverlay>(*base, older.get(), second, 10);
  first.clear();
  older.reset();
  EXPECT_FALSE(seen.expired()) << "row 3 of the newer version lies there";
  newer.reset();
  EXPECT_TRUE(seen.expired());
}

TEST(RowOverlay, CostsLittleMoreThanItsRows) {
  auto pool = arena();
  constexpr int64_t kRows = 1'000'000;
  auto base = std::make_shared<PoolRange>(pool, kRows);
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < kRows; row += 100) rows.push_back(row);
  std::vector<DeltaRows> deltas{delta(pool, rows)};
  RowOverlay overlay(*base, nullptr, deltas, kRows);
  EXPECT_LE(overlay.bytes(), deltas[0].values->bytes() + kRows / 8 + kRows / 16 + 8 * kRows / 100 + 64);
}

}  // namespace
}  // namespace smt::server
