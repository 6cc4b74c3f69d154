// Which calls get a line in the log.
#pragma once

#include <random>

namespace smt::server {

// Thread-safe: nothing is shared.
class AccessLog {
 public:
  // `rate`: share of the calls, 0..1.
  explicit AccessLog(double rate) : rate_(rate) {}

  // Asked once for each call.
  bool sampled() const {
    if (rate_ <= 0) return false;
    thread_local std::minstd_rand random(std::random_device{}());
    return std::uniform_real_distribution<double>()(random) < rate_;
  }

 private:
  const double rate_;
};

}  // namespace smt::server
