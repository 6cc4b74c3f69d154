// The weights of all resident scenarios of one template binary, where its op reads them: one array of slots for packed
// dense weights, one pool of table rows. So one call of the binary can carry rows of several scenarios.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "reserved_memory.h"

namespace smt::server {

// No slot, no room in the pool, or no memory. The message says what was asked for and what there is.
class ArenaError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct ArenaBounds {
  // Versions resident at once. The op's arrays have an entry for each, and its slot numbers are 32-bit; a server holds
  // hundreds of scenarios, for a moment two versions of some.
  int64_t slots = 4096;
  // Addresses of the pool. See default_pool_bytes().
  int64_t pool_bytes = default_pool_bytes();
  // Of what was freed, how much may stay resident for the next version, until trim(). Fresh pages are cleared, mapped
  // and, when they go, unmapped on every core at once: a third of what it takes to load a version of some megabytes,
  // and all of what serving threads notice of it. On a virtual machine that gives what it does not use back to its
  // host, they come from there: 100 MB in 150 ms, which is more than all else that a load does.
  int64_t keep_bytes = int64_t{128} << 20;

  // Twice the machine's memory, at most 1 TiB: tables never fill it, so gaps between them cost addresses alone, and
  // tens of binaries fit the address space (128 TiB).
  static int64_t default_pool_bytes();
};

class PoolRange;
class WeightSlot;

// Memory: slots and tables each lie densely, side by side, so that they share huge pages (of small ones, streaming the
// weights and gathering the rows of many scenarios misses the TLB all the time: 5 to 15 % of a call). Freed ones are
// taken again first, lowest first; when more than keep_bytes of them are resident, or have been for a while (trim()),
// all that is free goes back to the system, by the page, a page that neighbours share with the last of them. So what is
// resident exceeds what is in use by less than keep_bytes and two huge pages in all, plus what the kernel, in time,
// puts over freed places among taken ones.
//
// Threads: slots are taken and freed by any thread, under a lock. What they hold is not locked: the owner of a
// WeightSlot writes it before it shows it to other threads (by publishing a snapshot), and thereafter everyone only
// reads. A freed slot is taken again at once, so nobody may read a slot that it has no hold on: each request keeps a
// reference to its snapshot, which owns the slot, until its scores are there.
class WeightArena {
 public:
  // slot_bytes: pitch of the slots, a multiple of 64; dim: floats in a table row. Throws std::invalid_argument for
  // other numbers, ArenaError when the system grants no such range of addresses.
  WeightArena(int64_t slot_bytes, int64_t dim, const ArenaBounds& bounds = {});
  WeightArena(const WeightArena&) = delete;
  WeightArena& operator=(const WeightArena&) = delete;
  ~WeightArena();

  // What the op takes. Whoever holds a slot when calling view() finds it inside these bounds, and everything inside
  // them may be read. `pool_base` is the live array: entries of slots that the caller holds do not change, others may,
  // at any moment, and are not to be read.
  struct View {
    const std::byte* slots;  // [slot_count, slot_bytes], 64-byte aligned
    int64_t slot_count;
    const float* pool;  // [pool_rows, dim]
    int64_t pool_rows;
    const int64_t* pool_base;  // [slot_count]: the pool row that each slot's ids count from
  };
  View view() const;

  // Gives all that is free back to the system, unless something was freed after `since`.
  void trim(std::chrono::steady_clock::time_point since);

 private:
  friend class PoolRange;
  friend class WeightSlot;

  // Takes the first gap of the pool that `rows` rows fit into; returns its first row. Throws ArenaError,
  // std::bad_alloc.
  int64_t take_rows(int64_t rows);
  void free_rows(int64_t first_row) noexcept;
  // Takes the lowest free slot, whose ids count from that row of the pool. Throws ArenaError.
  int32_t take_slot(int64_t pool_base);
  void free_slot(int32_t slot) noexcept;

  int32_t lowest_free_slot() const;        // mutex_ is held; throws ArenaError
  int64_t first_gap(int64_t bytes) const;  // mutex_ is held; begin in bytes; throws ArenaError
  // Of a large table, the last huge page is not full: of small pages, no more of it is resident than the table needs,
  // which is what a server reckons with when it takes a version in. mutex_ is held.
  void prefer_huge_end(int64_t begin, int64_t bytes, bool huge);
  // mutex_ is held in all three. A range of the pool is in use again; throws std::bad_alloc.
  void take_freed(int64_t begin, int64_t bytes);
  void freed(int64_t bytes);  // gives back all that is free when it has become too much
  void give_back();           // all that is free
  std::byte* slot(int32_t index) const { return slots_.data() + index * slot_bytes_; }
  float* row(int64_t index) const { return reinterpret_cast<float*>(pool_.data()) + index * dim_; }
  static size_t at(int32_t index) { return static_cast<size_t>(index); }

  const int64_t slot_bytes_;
  const int64_t dim_;
  const int64_t row_bytes_;
  const int64_t granule_;  // tables begin at multiples of it: whole rows and whole cache lines
  const int64_t keep_bytes_;

  // Guards the bookkeeping below and the reservations' bounds. Held for system calls on page tables, never for copies;
  // a large table is given back before it is taken.
  mutable std::mutex mutex_;
  ReservedMemory slots_;
  ReservedMemory pool_;
  std::vector<bool> taken_;            // [slots]
  std::map<int64_t, int64_t> tables_;  // begin -> bytes of each table in the pool
  // What is free and may be resident: the rest of what is free was given back, or never used.
  std::map<int64_t, int64_t> freed_tables_;           // begin -> bytes, in the pool
  std::vector<bool> freed_slots_;                     // [slots]
  int64_t freed_bytes_ = 0;                           // of both
  std::chrono::steady_clock::time_point freed_at_{};  // when the last of it was freed

  // [slots]. An entry is written under mutex_ by the thread that takes the slot, and read without it by whoever holds
  // the slot: never at the same time, as long as they learn of the slot from that thread, in the usual way.
  std::vector<int64_t> pool_base_;
  // Bounds of what view() shows. Written under mutex_, only ever raised; relaxed, since who holds a slot has learnt of
  // it in a way that orders the writes before it, and an older value merely shows less.
  std::atomic<int64_t> slot_count_{0};
  std::atomic<int64_t> pool_rows_{0};
};

// Rows of an arena's pool, freed when the last reference goes, on whichever thread that is. Neither copied nor moved:
// it is shared, by every version that reads rows of it. What is in fresh memory is unspecified (zeros, or what an
// earlier owner left).
class PoolRange {
 public:
  // Throws ArenaError, std::bad_alloc; std::invalid_argument for fewer than no rows.
  PoolRange(std::shared_ptr<WeightArena> arena, int64_t rows)
      : arena_(std::move(arena)), rows_(rows), first_row_(arena_->take_rows(rows)) {}
  PoolRange(const PoolRange&) = delete;
  PoolRange& operator=(const PoolRange&) = delete;
  ~PoolRange() { arena_->free_rows(first_row_); }

  int64_t first_row() const { return first_row_; }  // in the pool
  int64_t rows() const { return rows_; }
  std::span<float> values() { return {arena_->row(first_row_), static_cast<size_t>(rows_ * arena_->dim_)}; }
  std::span<const float> values() const { return {arena_->row(first_row_), static_cast<size_t>(rows_ * arena_->dim_)}; }
  int64_t bytes() const { return rows_ * arena_->row_bytes_; }

 private:
  friend class WeightSlot;

  const std::shared_ptr<WeightArena> arena_;
  const int64_t rows_;
  const int64_t first_row_;
};

// One version's place in an arena: a slot, and the table that it reads. Movable, single owner of the slot, which is
// freed when the handle goes, on whichever thread that is; keeps table and arena alive. What is in a fresh slot is
// unspecified.
class WeightSlot {
 public:
  WeightSlot() = default;  // holds nothing
  // A slot and a table of its own, whose rows are what ids name. Throws as PoolRange does.
  WeightSlot(const std::shared_ptr<WeightArena>& arena, int64_t table_rows)
      : WeightSlot(std::make_shared<PoolRange>(arena, table_rows), false) {}
  // A slot over another version's table. Its ids are rows of the pool: the caller makes them so (RowOverlay). Throws
  // ArenaError.
  static WeightSlot over(std::shared_ptr<PoolRange> table) { return {std::move(table), true}; }
  WeightSlot(WeightSlot&& other) noexcept;
  WeightSlot& operator=(WeightSlot&& other) noexcept;
  ~WeightSlot();

  int32_t index() const { return index_; }  // of the slot, for block_slot
  int64_t table_rows() const { return table_ ? table_->rows() : 0; }
  std::span<std::byte> packed() { return packed_; }  // [slot_bytes], 64-byte aligned
  std::span<const std::byte> packed() const { return packed_; }
  // [table_rows, dim], row-major, 64-byte aligned. Of a table that is shared, nobody writes to it.
  std::span<float> table() { return table_ ? table_->values() : std::span<float>(); }
  std::span<const float> table() const { return table_ ? std::as_const(*table_).values() : std::span<const float>(); }
  const std::shared_ptr<PoolRange>& range() const { return table_; }
  int64_t bytes() const { return static_cast<int64_t>(packed_.size_bytes()) + (table_ ? table_->bytes() : 0); }

 private:
  WeightSlot(std::shared_ptr<PoolRange> table, bool whole_pool);

  std::shared_ptr<PoolRange> table_;
  int32_t index_ = -1;
  std::span<std::byte> packed_;
};

}  // namespace smt::server
