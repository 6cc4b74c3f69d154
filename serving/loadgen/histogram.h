// Latencies at a bounded relative error, in the scheme of HdrHistogram (G. Tene, hdrhistogram.org): values below 1024
// have a bucket each, and each power of two above them 1024 buckets of equal width, so that a bucket's width is at most
// 1/1024 (0.098 %) of the values in it. Recording is an increment; memory grows with the range that was seen (8 KiB for
// each power of two).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace smt::loadgen {

// Not thread-safe.
class Histogram {
 public:
  static constexpr int kBlockBits = 10;
  // Larger values count as this one (73 minutes in nanoseconds), negative ones as 0.
  static constexpr int64_t kMax = (int64_t{1} << 42) - 1;

  void record(int64_t value);
  void add(const Histogram& other);
  void clear();

  uint64_t count() const { return count_; }
  int64_t min() const { return count_ == 0 ? 0 : min_; }
  int64_t max() const { return max_; }
  double sum() const { return sum_; }

  // The value that a share `q` (0..1) of the recorded ones does not exceed: the end of its bucket, but never more than
  // the maximum. 0 when nothing was recorded.
  int64_t quantile(double q) const;

  // Calls visit(lowest value of the bucket, count) for every bucket that holds something, in rising order.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (size_t block = 0; block < kBlocks; ++block) {
      if (!blocks_[block]) continue;
      for (size_t i = 0; i < kBlockSize; ++i) {
        if ((*blocks_[block])[i] != 0) visit(lowest(block, i), (*blocks_[block])[i]);
      }
    }
  }

 private:
  static constexpr size_t kBlockSize = size_t{1} << kBlockBits;
  static constexpr size_t kBlocks = 42 - kBlockBits + 1;
  using Block = std::array<uint64_t, kBlockSize>;

  // Block 0 holds 0..1023 and block 1 holds 1024..2047, one value a bucket; in every further one buckets are twice as
  // wide as in the one before.
  static int shift(size_t block) { return block == 0 ? 0 : static_cast<int>(block) - 1; }
  static int64_t lowest(size_t block, size_t i) {
    return static_cast<int64_t>((block == 0 ? i : i + kBlockSize) << shift(block));
  }

  std::array<std::unique_ptr<Block>, kBlocks> blocks_;
  uint64_t count_ = 0;
  int64_t min_ = kMax;
  int64_t max_ = 0;
  double sum_ = 0;
};

}  // namespace smt::loadgen
