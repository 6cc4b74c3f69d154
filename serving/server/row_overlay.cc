#include "row_overlay.h"

#include <algorithm>
#include <bit>

namespace smt::server {

RowOverlay::RowOverlay(const PoolRange& table, const RowOverlay* below, std::span<const DeltaRows> deltas,
                       int64_t table_rows)
    : first_row_(table.first_row()),
      table_rows_(table_rows),
      changed_(static_cast<size_t>((table_rows + kWordBits - 1) / kWordBits)),
      rank_(changed_.size()) {
  if (below != nullptr) {
    std::ranges::copy(below->changed_, changed_.begin());
    ranges_ = below->ranges_;
  }
  mark(deltas);
  if (below != nullptr) {
    auto from = below->pool_row_.begin();  // in the order of the rows, as the bits are
    for (size_t word = 0; word < below->changed_.size(); ++word) {
      for (uint64_t bits = below->changed_[word]; bits != 0; bits &= bits - 1) {
        pool_row_[rank(static_cast<int64_t>(word) * kWordBits + std::countr_zero(bits))] = *from++;
      }
    }
  }
  for (const DeltaRows& delta : deltas) {  // a newer one over what older ones said
    int64_t pool_row = delta.values->first_row();
    for (int64_t row : delta.rows) pool_row_[rank(row)] = pool_row++;
    ranges_.push_back(delta.values);
  }
}

void RowOverlay::mark(std::span<const DeltaRows> deltas) {
  for (const DeltaRows& delta : deltas) {
    for (int64_t row : delta.rows) {
      changed_[static_cast<size_t>(row / kWordBits)] |= uint64_t{1} << (row % kWordBits);
    }
  }
  uint32_t count = 0;
  for (size_t word = 0; word < changed_.size(); ++word) {
    rank_[word] = count;
    count += static_cast<uint32_t>(std::popcount(changed_[word]));
  }
  pool_row_.resize(count);
}

size_t RowOverlay::rank(int64_t row) const {
  auto word = static_cast<size_t>(row / kWordBits);
  uint64_t before = (uint64_t{1} << (row % kWordBits)) - 1;
  return rank_[word] + static_cast<size_t>(std::popcount(changed_[word] & before));
}

void RowOverlay::resolve(std::span<int64_t> ids) const noexcept {
  for (int64_t& id : ids) {
    bool changed = (changed_[static_cast<size_t>(id / kWordBits)] >> (id % kWordBits) & 1) != 0;
    id = changed ? pool_row_[rank(id)] : first_row_ + id;
  }
}

int64_t RowOverlay::bytes() const {
  auto bytes = static_cast<int64_t>(changed_.size() * sizeof(uint64_t) + rank_.size() * sizeof(uint32_t) +
                                    pool_row_.size() * sizeof(int64_t));
  for (const auto& range : ranges_) bytes += range->bytes();
  return bytes;
}

}  // namespace smt::server
