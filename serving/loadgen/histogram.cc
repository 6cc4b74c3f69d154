#include "histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace smt::loadgen {

void Histogram::record(int64_t value) {
  value = std::clamp<int64_t>(value, 0, kMax);
  int width = std::bit_width(static_cast<uint64_t>(value));
  size_t block = static_cast<size_t>(std::max(0, width - kBlockBits));
  if (!blocks_[block]) blocks_[block] = std::make_unique<Block>(Block{});
  size_t i = static_cast<size_t>(value >> shift(block)) & (kBlockSize - 1);
  ++(*blocks_[block])[i];
  ++count_;
  sum_ += static_cast<double>(value);
  min_ = std::min(min_, value);
  max_ = std::max(max_, value);
}

void Histogram::add(const Histogram& other) {
  for (size_t block = 0; block < kBlocks; ++block) {
    if (!other.blocks_[block]) continue;
    if (!blocks_[block]) blocks_[block] = std::make_unique<Block>(Block{});
    for (size_t i = 0; i < kBlockSize; ++i) (*blocks_[block])[i] += (*other.blocks_[block])[i];
  }
  count_ += other.count_;
  sum_ += other.sum_;
  min_ = std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
}

void Histogram::clear() {
  for (auto& block : blocks_) {
    if (block) block->fill(0);
  }
  count_ = 0;
  sum_ = 0;
  min_ = kMax;
  max_ = 0;
}

int64_t Histogram::quantile(double q) const {
  if (count_ == 0) return 0;
  auto rank = static_cast<uint64_t>(std::ceil(q * static_cast<double>(count_)));
  rank = std::clamp<uint64_t>(rank, 1, count_);
  uint64_t seen = 0;
  for (size_t block = 0; block < kBlocks; ++block) {
    if (!blocks_[block]) continue;
    for (size_t i = 0; i < kBlockSize; ++i) {
      seen += (*blocks_[block])[i];
      if (seen >= rank) return std::min(max_, lowest(block, i) + (int64_t{1} << shift(block)) - 1);
    }
  }
  return max_;
}

}  // namespace smt::loadgen
