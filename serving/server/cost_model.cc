#include "cost_model.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace smt::server {

// Slow enough to forget a hiccup, quick enough to follow a neighbour on the machine.
static constexpr double kNew = 1.0 / 8;
// One batch that was interrupted by another process tells nothing of the next: it counts as so many times the average.
static constexpr double kOutlier = 4;
// What an average keeps of itself while a batch of another size is observed: the first ones of a size, when everything
// was cold, are not to be believed when it is seen again.
static constexpr double kKept = 31.0 / 32;
static constexpr double kRelaxed = 0.98;
// Were a large batch that came once, as the first one, to stand for what rows cost, none might ever be as large again.
static constexpr uint64_t kLately = 64;

size_t CostModel::bucket(int64_t rows) {
  auto width = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(std::max<int64_t>(rows, 1)) - 1));
  return std::min(width, kBuckets - 1);
}

void CostModel::observe(int64_t rows, double seconds) {
  Bucket& seen = buckets_[bucket(rows)];
  const auto since = static_cast<double>(++observed_ - seen.last);
  seen.last = observed_;
  auto count = static_cast<double>(rows);
  if (seen.seconds == 0) {
    seen.rows = count;
    seen.seconds = seconds;
    return;
  }
  const double off = std::min(std::abs(seconds * seen.rows / (seen.seconds * count) - 1), 1.0);
  deviation_ += kNew * (off - deviation_);
  const double weight = std::max(kNew, 1 - std::pow(kKept, since));
  seen.seconds += weight * (std::min(seconds, kOutlier * seen.seconds) - seen.seconds);
  seen.rows += weight * (count - seen.rows);
}

void CostModel::relax() {
  for (Bucket& seen : buckets_) seen.seconds *= kRelaxed;
  deviation_ *= kRelaxed;
}

double CostModel::seconds(int64_t rows) const {
  auto count = static_cast<double>(rows);
  size_t place = bucket(rows);
  auto scaled = [&](const Bucket& seen) { return seen.seconds * count / seen.rows; };
  if (buckets_[place].seconds > 0) return scaled(buckets_[place]);
  for (size_t larger = place + 1; larger < kBuckets; ++larger) {
    if (buckets_[larger].seconds > 0) return scaled(buckets_[larger]);
  }
  for (size_t smaller = place; smaller-- > 0;) {
    // Never more than proportional: that of a few rows would be far too much.
    if (buckets_[smaller].seconds > 0) return buckets_[smaller].seconds;
  }
  return 0;
}

double CostModel::row_seconds() const {
  for (size_t place = kBuckets; place-- > 0;) {
    const Bucket& seen = buckets_[place];
    if (seen.seconds > 0 && observed_ - seen.last < kLately) return seen.seconds / seen.rows;
  }
  return 0;
}

}  // namespace smt::server
