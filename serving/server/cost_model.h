// How long a template binary takes for a batch of so many rows, learnt from the batches it ran.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace smt::server {

// Not thread-safe: the scheduler uses it under its lock. Time for rows is not proportional (one row streams the weights
// as 16 do), so there is a moving average for every power of two.
class CostModel {
 public:
  void observe(int64_t rows, double seconds);
  // A work was refused for what it would take: the figures sink a little, so that ones which were too high are tried
  // again, also when all works are refused for them and none is observed any more.
  void relax();
  // Seconds for a batch of `rows` >= 1; 0 while nothing was observed. Where no such batch was seen it errs on the side
  // of too little, so that no request is refused which could be served: fewer rows than were seen are taken as
  // proportional, more as taking what the most took.
  double seconds(int64_t rows) const;
  // What seconds() is to be multiplied with for a promise: by the average alone every second one would be broken. The
  // average deviation counts four times, as for round-trip times (Jacobson 1988).
  double caution() const { return 1 + 4 * deviation_; }
  // Seconds of one more row in a large batch: the largest of those seen lately.
  double row_seconds() const;

 private:
  static constexpr size_t kBuckets = 17;  // 1, 2, 4 .. 65536 rows
  struct Bucket {
    double rows = 0;     // moving average of the rows
    double seconds = 0;  // and of the seconds; 0: none seen
    uint64_t last = 0;   // observation
  };
  static size_t bucket(int64_t rows);

  std::array<Bucket, kBuckets> buckets_{};
  uint64_t observed_ = 0;
  double deviation_ = 0;  // moving average of |seconds - average| / average, at most 1 each
};

}  // namespace smt::server
