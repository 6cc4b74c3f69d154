#include "weight_arena.h"

#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <system_error>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace smt::server {
namespace {

constexpr int64_t kAlignment = 64;  // what the op wants of slots; a cache line
constexpr auto kHuge = static_cast<int64_t>(kHugePage);
// A table for which two thousand small pages at its end do not matter, but two megabytes that it does not need would.
constexpr int64_t kLargeTable = int64_t{32} << 20;

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// The number of bytes, or the largest number if it is none: a reservation of that size fails.
int64_t product(int64_t a, int64_t b) {
  int64_t result = 0;
  return __builtin_mul_overflow(a, b, &result) ? INT64_MAX : result;
}

int64_t checked(const char* name, int64_t value, int64_t unit = 1) {
  constexpr int64_t kMost = int64_t{1} << 44;  // no sum or multiple of two of these overflows
  if (value > 0 && value <= kMost && value % unit == 0) return value;
  throw std::invalid_argument(std::string(name) + ": found " + std::to_string(value) + "; expected a multiple of " +
                              std::to_string(unit) + " in 1.." + std::to_string(kMost));
}

// Freed memory is mapped still, so a read of it would go unnoticed: AddressSanitizer is told.
void mark_free([[maybe_unused]] const void* memory, [[maybe_unused]] int64_t bytes, [[maybe_unused]] bool is_free) {
#if defined(__SANITIZE_ADDRESS__)
  if (is_free) {
    ASAN_POISON_MEMORY_REGION(memory, static_cast<size_t>(bytes));
  } else {
    ASAN_UNPOISON_MEMORY_REGION(memory, static_cast<size_t>(bytes));
  }
#endif
}

}  // namespace

int64_t ArenaBounds::default_pool_bytes() {
#if defined(__SANITIZE_THREAD__)
  constexpr int64_t kMost = int64_t{64} << 30;  // ThreadSanitizer leaves programs little more than 1 TiB
#else
  constexpr int64_t kMost = int64_t{1} << 40;
#endif
  return 2 * std::min(kMost / 2, product(sysconf(_SC_PAGESIZE), std::max(sysconf(_SC_PHYS_PAGES), 1L)));
}

WeightArena::WeightArena(int64_t slot_bytes, int64_t dim, const ArenaBounds& bounds) try
    : slot_bytes_(checked("slot_bytes", slot_bytes, kAlignment)),
      dim_(checked("dim", dim)),
      row_bytes_(product(dim, sizeof(float))),
      granule_(std::lcm(kAlignment, row_bytes_)),
      keep_bytes_(bounds.keep_bytes),
      slots_(static_cast<size_t>(product(slot_bytes, checked("slots", bounds.slots)))),
      pool_(static_cast<size_t>(checked("pool_bytes", bounds.pool_bytes))),
      taken_(static_cast<size_t>(bounds.slots)),
      freed_slots_(static_cast<size_t>(bounds.slots)),
      pool_base_(static_cast<size_t>(bounds.slots)) {
} catch (const std::system_error& error) {
  throw ArenaError(std::string("memory for weights: ") + error.what());
}

WeightArena::~WeightArena() {
  mark_free(slots_.data(), static_cast<int64_t>(slots_.accessible()), false);
  mark_free(pool_.data(), static_cast<int64_t>(pool_.accessible()), false);
}

WeightArena::View WeightArena::view() const {
  return {.slots = slots_.data(),
          .slot_count = slot_count_.load(std::memory_order_relaxed),
          .pool = reinterpret_cast<const float*>(pool_.data()),
          .pool_rows = pool_rows_.load(std::memory_order_relaxed),
          .pool_base = pool_base_.data()};
}

int32_t WeightArena::lowest_free_slot() const {
  auto found = std::find(taken_.begin(), taken_.end(), false);
  if (found == taken_.end()) {
    throw ArenaError("weights of a further scenario: all " + std::to_string(taken_.size()) +
                     " slots of the template binary are taken; expected a free one (serve fewer scenarios of the "
                     "template from this process)");
  }
  return static_cast<int32_t>(found - taken_.begin());
}

int64_t WeightArena::first_gap(int64_t bytes) const {
  int64_t begin = 0;
  for (const auto& [next, next_bytes] : tables_) {
    if (next - begin >= bytes) return begin;
    begin = round_up(next + next_bytes, granule_);
  }
  auto end = static_cast<int64_t>(pool_.bytes());
  if (begin <= end && end - begin >= bytes) return begin;
  throw ArenaError("a table of " + std::to_string(bytes) + " bytes: no gap of that size in the " + std::to_string(end) +
                   " bytes of the template binary's pool, which holds " + std::to_string(tables_.size()) +
                   " tables; expected one (serve fewer scenarios of the template from this process)");
}

int64_t WeightArena::take_rows(int64_t rows) {
  if (rows < 0) throw std::invalid_argument("table_rows: found " + std::to_string(rows) + "; expected 0 or more");
  // Rows that are none take a row's place too: no two ranges begin at the same byte.
  int64_t bytes = product(std::max<int64_t>(rows, 1), row_bytes_);
  std::lock_guard lock(mutex_);
  int64_t begin = first_gap(bytes);
  try {
    pool_.grow(static_cast<size_t>(begin + bytes));
  } catch (const std::system_error& error) {
    throw ArenaError("a table of " + std::to_string(bytes) + " bytes: " + error.what());
  }
  take_freed(begin, bytes);
  tables_.emplace(begin, bytes);
  prefer_huge_end(begin, bytes, false);
  int64_t end = (begin + bytes) / row_bytes_;
  if (end > pool_rows_.load(std::memory_order_relaxed)) pool_rows_.store(end, std::memory_order_relaxed);
  mark_free(row(begin / row_bytes_), bytes, false);
  return begin / row_bytes_;
}

void WeightArena::free_rows(int64_t first_row) noexcept {
  int64_t begin = first_row * row_bytes_;
  int64_t bytes = 0;
  {
    std::lock_guard lock(mutex_);
    bytes = tables_.find(begin)->second;
  }
  mark_free(row(first_row), bytes, true);
  // Its range is taken still, so nobody else has a use for it: a large one takes a while, which others do not wait for.
  if (bytes > keep_bytes_) pool_.give_back(static_cast<size_t>(begin), static_cast<size_t>(begin + bytes));
  std::lock_guard lock(mutex_);
  freed_tables_.insert(tables_.extract(begin));  // allocates nothing
  prefer_huge_end(begin, bytes, true);
  freed(bytes);
}

void WeightArena::prefer_huge_end(int64_t begin, int64_t bytes, bool huge) {
  int64_t end = begin + bytes;
  int64_t last = end / kHuge * kHuge;
  if (bytes > kLargeTable && last < end) pool_.prefer_huge(static_cast<size_t>(last), static_cast<size_t>(end), huge);
}

int32_t WeightArena::take_slot(int64_t pool_base) {
  std::lock_guard lock(mutex_);
  int32_t slot = lowest_free_slot();
  try {
    slots_.grow(static_cast<size_t>((slot + 1) * slot_bytes_));
  } catch (const std::system_error& error) {
    throw ArenaError("dense weights of " + std::to_string(slot_bytes_) + " bytes: " + error.what());
  }
  taken_[at(slot)] = true;
  if (freed_slots_[at(slot)]) freed_bytes_ -= slot_bytes_;
  freed_slots_[at(slot)] = false;
  pool_base_[at(slot)] = pool_base;
  if (slot >= slot_count_.load(std::memory_order_relaxed)) slot_count_.store(slot + 1, std::memory_order_relaxed);
  mark_free(this->slot(slot), slot_bytes_, false);
  return slot;
}

void WeightArena::free_slot(int32_t slot) noexcept {
  mark_free(this->slot(slot), slot_bytes_, true);
  std::lock_guard lock(mutex_);
  taken_[at(slot)] = false;
  freed_slots_[at(slot)] = true;
  freed(slot_bytes_);
}

void WeightArena::take_freed(int64_t begin, int64_t bytes) {
  const int64_t end = begin + bytes;
  auto at = freed_tables_.upper_bound(begin);
  if (at != freed_tables_.begin() && std::prev(at)->first + std::prev(at)->second > begin) --at;
  while (at != freed_tables_.end() && at->first < end) {
    const int64_t first = at->first;
    const int64_t last = first + at->second;
    if (last > end) freed_tables_.emplace(end, last - end);  // first: it may throw
    if (first < begin) {
      at->second = begin - first;
      ++at;
    } else {
      at = freed_tables_.erase(at);
    }
    freed_bytes_ -= std::min(last, end) - std::max(first, begin);
  }
}

void WeightArena::freed(int64_t bytes) {
  freed_bytes_ += bytes;
  freed_at_ = std::chrono::steady_clock::now();
  if (freed_bytes_ > keep_bytes_) give_back();
}

void WeightArena::trim(std::chrono::steady_clock::time_point since) {
  std::lock_guard lock(mutex_);
  if (freed_bytes_ > 0 && freed_at_ <= since) give_back();
}

// Each gap up to the neighbours that are in use, or to the end of what is accessible: a page that several shared goes
// with the last of them, and what a huge page brought in beyond the last one goes too.
void WeightArena::give_back() {
  freed_bytes_ = 0;
  freed_tables_.clear();
  std::fill(freed_slots_.begin(), freed_slots_.end(), false);
  int64_t gap = 0;
  for (const auto& [begin, table_bytes] : tables_) {
    pool_.give_back(static_cast<size_t>(gap), static_cast<size_t>(begin));
    gap = begin + table_bytes;
  }
  pool_.give_back(static_cast<size_t>(gap), pool_.accessible());
  for (auto first = taken_.begin(); first != taken_.end();) {
    first = std::find(first, taken_.end(), false);
    const auto next = std::find(first, taken_.end(), true);
    const bool last = next == taken_.end();
    const auto end = static_cast<size_t>((next - taken_.begin()) * slot_bytes_);
    slots_.give_back(static_cast<size_t>((first - taken_.begin()) * slot_bytes_), last ? slots_.accessible() : end);
    first = next;
  }
}

WeightSlot::WeightSlot(std::shared_ptr<PoolRange> table, bool whole_pool)
    : table_(std::move(table)), index_(table_->arena_->take_slot(whole_pool ? 0 : table_->first_row())) {
  packed_ = {table_->arena_->slot(index_), static_cast<size_t>(table_->arena_->slot_bytes_)};
}

WeightSlot::WeightSlot(WeightSlot&& other) noexcept { *this = std::move(other); }

WeightSlot& WeightSlot::operator=(WeightSlot&& other) noexcept {
  std::swap(table_, other.table_);
  std::swap(index_, other.index_);
  std::swap(packed_, other.packed_);
  return *this;
}

WeightSlot::~WeightSlot() {
  if (table_) table_->arena_->free_slot(index_);
}

}  // namespace smt::server
