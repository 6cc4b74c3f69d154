#include "shadow_scorer.h"

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <utility>

#include "program.h"
#include "thread_priority.h"

namespace smt::server {
namespace {

// Rows of one step: a block of the kernels, and what is left when that is less than a second one. So no step is below
// the rows from which scores are the same to the bit whatever call they are in, unless the request is.
int64_t step_rows(int64_t left) { return left < 2 * cpu::kRowBlock ? left : cpu::kRowBlock; }

// A request as the runner takes it. Nobody queues it.
class RowsToScore final : public Work {
 public:
  void concluded(Drop) noexcept override {}
  bool cancelled() const noexcept override { return false; }
};

std::vector<transform::Column> read_by(const transform::FeatureSpec& features,
                                       std::span<const transform::Column> columns, bool many) {
  std::vector<transform::Column> out;
  auto reads = [&](const transform::Column& column) { return !many || features.reads(column.name); };
  std::ranges::copy_if(columns, std::back_inserter(out), reads);
  return out;
}

}  // namespace

ShadowScorer::ShadowScorer(Scheduler& scheduler, const Limits& limits, std::function<void()> on_thread_start)
    : scheduler_(scheduler),
      limits_(limits),
      thread_([this, start = std::move(on_thread_start)](const std::stop_token& stop) {
        lower_thread_priority();
        if (start) start();
        run(stop);
      }) {}

ShadowScorer::~ShadowScorer() { stop(); }

void ShadowScorer::drop(const ShadowWork& work) {
  work.metrics->shadow(ShadowResult::kDropped).Increment();
  if (auto route = work.route.lock()) route->divergence->dropped();
}

void ShadowScorer::offer(ShadowWork work) noexcept {
  {
    const size_t bytes = work.bytes();
    std::lock_guard lock(mutex_);
    if (!stopped_ && bytes_ + bytes <= limits_.queue_bytes) {
      try {
        queue_.push_back(std::move(work));
        bytes_ += bytes;
        offered_.notify_one();
        return;
      } catch (const std::bad_alloc&) {  // no room either: `work` is what it was
      }
    }
  }
  drop(work);
}

void ShadowScorer::stop() {
  std::deque<ShadowWork> left;
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    left.swap(queue_);
    bytes_ = 0;
  }
  for (const ShadowWork& work : left) drop(work);
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
}

size_t ShadowScorer::waiting_bytes() const {
  std::lock_guard lock(mutex_);
  return bytes_;
}

void ShadowScorer::run(const std::stop_token& stop) {
  // The request stays in the queue, and its memory counted, until there is time for it.
  while (scheduler_.wait_idle(stop)) {
    ShadowWork work;
    {
      std::unique_lock lock(mutex_);
      if (queue_.empty()) {
        if (!offered_.wait(lock, stop, [this] { return !queue_.empty(); })) return;
        continue;  // is there time for it?
      }
      work = std::move(queue_.front());
      queue_.pop_front();
      bytes_ -= work.bytes();
    }
    score(work, stop);
  }
}

void ShadowScorer::score(ShadowWork& work, const std::stop_token& stop) {
  std::vector<float> scores;
  std::string failure;
  try {
    scores = scored(work, stop);
  } catch (const std::exception& error) {
    failure = error.what();
  }
  auto route = work.route.lock();
  if (!route) return work.metrics->shadow(ShadowResult::kDropped).Increment();
  if (!failure.empty()) {
    work.metrics->shadow(ShadowResult::kFailed).Increment();
    return route->divergence->failed(failure);
  }
  if (scores.empty()) return drop(work);
  const auto heads = static_cast<size_t>(route->shadow->binary->manifest().tasks);
  const auto rows = static_cast<int64_t>(scores.size() / heads);
  const DivergenceStep step = route->divergence->compared({.rows = rows, .stable = work.scores, .shadow = scores});
  work.metrics->shadow(ShadowResult::kCompared).Increment();
  work.metrics->diverged(step, route->divergence->figures());
}

std::vector<float> ShadowScorer::scored(ShadowWork& work, const std::stop_token& stop) {
  const RawRows raw = work.request->decode();
  std::vector<transform::Column> context;
  std::vector<transform::Column> candidates;
  RowsToScore rows;
  rows.rows = raw.rows;
  for (int64_t first = 0; first < raw.rows;) {
    if (first > 0 && !scheduler_.wait_idle(stop)) return {};
    auto route = work.route.lock();  // not held while it waits
    if (!route) return {};
    if (first == 0) {
      transform::Limits limits;
      limits.max_rows = limits_.max_rows;
      context = read_by(route->shadow->features, raw.context, raw.many);
      candidates = read_by(route->shadow->features, raw.candidates, raw.many);
      route->shadow->features.check(raw.rows, context, candidates, limits, rows.columns);
      rows.scores.resize(static_cast<size_t>(raw.rows * route->shadow->binary->manifest().tasks));
    }
    rows.snapshot = route->shadow;
    const Part part{.work = &rows, .first = first, .rows = step_rows(raw.rows - first)};
    if (runner_.run({&part, 1}).rows == 0) {
      throw std::runtime_error(rows.error().empty() ? "not enough memory to score it" : rows.error());
    }
    rows.snapshot.reset();
    first += part.rows;
  }
  return std::move(rows.scores);
}

}  // namespace smt::server
