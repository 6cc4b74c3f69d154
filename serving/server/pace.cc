#include "pace.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>

namespace smt::server {

void Pace::spend(size_t bytes, const std::stop_token& stop) {
  using Clock = std::chrono::steady_clock;
  if (give_way_) give_way_(stop);
  if (rate_ <= 0) return;
  const std::chrono::duration<double> cost(static_cast<double>(bytes) / static_cast<double>(rate_));
  due_ = std::max(due_, Clock::now()) + std::chrono::duration_cast<Clock::duration>(cost);
  std::mutex mutex;  // nobody else's: for the wait alone
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  never.wait_until(lock, stop, due_, [] { return false; });
}

}  // namespace smt::server
