#include "fair_order.h"

#include <algorithm>

namespace smt::server {

ScenarioQueue& FairOrder::next() const {
  auto level = std::find_if(levels_.begin(), levels_.end(), [](const auto& each) { return !each.second.empty(); });
  return level->second.due.empty() ? **level->second.early.begin() : **level->second.due.begin();
}

bool FairOrder::remove(ScenarioQueue& queue) {
  if (queue.empty()) return false;
  Level& level = levels_[queue.policy().priority];
  if (level.due.erase(&queue) + level.early.erase(&queue) == 0) return false;
  --waiting_;
  weight_ -= queue.policy().weight;
  if (waiting_ == 0) weight_ = 0;  // no rest of rounding stays
  return true;
}

void FairOrder::insert(ScenarioQueue& queue, bool was_waiting) {
  Level& level = levels_[queue.policy().priority];
  if (queue.empty()) {
    if (level.empty()) level.time = level.latest;
    return;
  }
  if (!was_waiting) {
    queue.start = std::max(queue.start, level.time - kCreditSeconds);
    queue.turn = ++turns_;
  }
  queue.start = std::min(queue.start, level.latest);  // of another level, which is further
  if (queue.start <= level.time) {
    level.due.insert(&queue);
  } else {
    level.early.insert(&queue);
  }
  ++waiting_;
  weight_ += queue.policy().weight;
}

void FairOrder::advance(ScenarioQueue& queue, double seconds) {
  Level& level = levels_[queue.policy().priority];
  level.time = std::max(level.time, queue.start);
  queue.start += seconds / queue.policy().weight;
  queue.turn = ++turns_;
  level.latest = std::max(level.latest, queue.start);
}

void FairOrder::call_due(Level& level) {
  while (!level.early.empty() && (*level.early.begin())->start <= level.time) {
    ScenarioQueue* due = level.early.extract(level.early.begin()).value();
    due->turn = ++turns_;
    level.due.insert(due);
  }
}

}  // namespace smt::server
