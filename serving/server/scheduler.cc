#include "scheduler.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "batch_runner.h"
#include "cores.h"

namespace smt::server {
namespace {

// A part below this is not worth waking another worker for: that takes some 10 µs, and the call as much.
constexpr double kWorthSharing = 100e-6;
// What a call of a binary costs whatever its rows. Rows of another scenario share no weights with those of a block:
// joining it they save this, and have to wait for each other's scores. So they join when the padding between them costs
// less, and only up to kWorthSharing, of which it is a tenth.
constexpr double kCallSeconds = 10e-6;
// What takes no longer than this is not worth waking a worker for when the thread that brings it can do it: the thread
// does not look after its connections meanwhile.
constexpr double kInlineSeconds = 100e-6;
// What a block may take: a request that comes now waits for those that run. Where rows take long it has fewer, but
// enough that reading the weights is a small part of it.
constexpr double kBlockSeconds = 2e-3;
constexpr int64_t kLeastBlockRows = 64;
// What a row is taken to cost before the first batch.
constexpr double kUnknownRowSeconds = 2e-6;

// Of this thread: whether it brings works in turns, and has submitted some that are not begun.
struct Turns {
  bool taken = false;
  bool unbegun = false;
};
thread_local Turns turns;

double seconds(Work::Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

std::chrono::milliseconds advice(double wait_seconds) {
  return std::chrono::milliseconds(std::clamp<int64_t>(std::llround(wait_seconds * 1e3), 1, 60'000));
}

}  // namespace

Scheduler::Scheduler(const Limits& limits, Observer observer, std::function<void()> on_thread_start)
    : limits_(limits), observer_(std::move(observer)), on_thread_start_(std::move(on_thread_start)) {
  threads_.reserve(limits_.workers);
  // As many workers as cores: each has one of its own, so that no two wait for the same one while another is idle.
  const std::vector<int> cores = usable_cores();
  const bool own = cores.size() == limits_.workers;
  for (size_t i = 0; i < limits_.workers; ++i) {
    threads_.emplace_back([this, core = own ? std::optional(cores[i]) : std::nullopt] {
      if (core) stay_on_core(*core);
      work();
    });
  }
}

Scheduler::~Scheduler() { stop(); }

ScenarioQueue& Scheduler::queue(std::string_view scenario) {
  std::lock_guard lock(mutex_);
  auto found = queues_.find(scenario);
  if (found != queues_.end()) return *found->second;
  auto policy = policies_.find(scenario);
  auto made =
      std::make_unique<ScenarioQueue>(std::string(scenario), policy == policies_.end() ? fallback_ : policy->second);
  return *queues_.emplace(std::string(scenario), std::move(made)).first->second;
}

void Scheduler::configure(std::map<std::string, ScenarioPolicy, std::less<>> policies, const ScenarioPolicy& fallback) {
  std::lock_guard lock(mutex_);
  policies_ = std::move(policies);
  fallback_ = fallback;
  for (auto& [name, queue] : queues_) {
    auto policy = policies_.find(name);
    order_.update(*queue, [&] { queue->set(policy == policies_.end() ? fallback_ : policy->second); });
  }
}

double Scheduler::row_seconds(const Work* work) const {
  auto found = costs_.find(work->snapshot->binary.get());
  double learnt = found == costs_.end() ? 0 : found->second.row_seconds();
  return learnt > 0 ? learnt : kUnknownRowSeconds;
}

// Rows of a block of its binary.
int64_t Scheduler::most_rows(const Work* work) const {
  const auto rows = static_cast<int64_t>(kBlockSeconds / row_seconds(work));
  return std::min(padded(std::max(rows, kLeastBlockRows)), limits_.block_rows);
}

// Until its scores are there when every worker turns to it at once.
double Scheduler::own_seconds(const Work* work) const { return own_seconds(work, work->rows - work->next_row_); }

double Scheduler::own_seconds(const Work* work, int64_t rows) const {
  auto found = costs_.find(work->snapshot->binary.get());
  if (found == costs_.end()) return 0;
  const int64_t most = most_rows(work);
  if (rows <= most) return found->second.seconds(rows);
  // Workers turn to it as they get free (Graham's bound for list scheduling, 1966).
  const double blocks = std::ceil(static_cast<double>(rows) / static_cast<double>(most));
  const auto workers = static_cast<double>(limits_.workers);
  return found->second.seconds(most) * (blocks + workers - 1) / workers;
}

double Scheduler::wait_seconds(const ScenarioQueue& queue) const {
  if (queue.empty()) return 0;
  double backlog = static_cast<double>(queue.waiting_rows()) * row_seconds(queue.first());
  return backlog * order_.weight() / queue.policy().weight / static_cast<double>(limits_.workers);
}

Drop Scheduler::refuses(const Work& work, std::chrono::milliseconds& retry_after) {
  const ScenarioQueue& queue = *work.queue;
  const Clock::time_point now = Clock::now();
  std::lock_guard lock(mutex_);
  if (stopped_) return Drop::kShutdown;
  if (now >= work.deadline) return Drop::kExpired;
  const double wait = wait_seconds(queue);
  const bool known = work.snapshot != nullptr;
  const double own = known ? own_seconds(&work, std::max<int64_t>(work.rows, 1)) : 0;  // a row is the least
  if (known && !in_time(&work, own, now)) return unmeetable(&work);
  const bool full = static_cast<int64_t>(queue.size()) >= queue.policy().queue_requests ||
                    wait * 1e3 > static_cast<double>(queue.policy().queue_ms);
  if (full) {
    // What is dead in it may make room: then the full way decides.
    if (dead(queue.first(), now) != Drop::kNone) return Drop::kNone;
    retry_after = advice(wait);
    return Drop::kQueueFull;
  }
  if (known && behind_all(&work) && !in_time(&work, wait + own, now)) return unmeetable(&work);
  return Drop::kNone;
}

// For a work that is refused: what was foreseen for it may have been too much.
Drop Scheduler::unmeetable(const Work* work) {
  cost(work).relax();
  return Drop::kUnmeetable;
}

bool Scheduler::behind_all(const Work* work) const {
  return !work->queue->empty() && work->deadline >= work->queue->last()->deadline;
}

Drop Scheduler::dead(const Work* work, Clock::time_point now) const {
  if (now >= work->deadline) return Drop::kExpired;  // first: its client also resets a call whose deadline passed
  if (work->cancelled()) return Drop::kCancelled;
  return in_time(work, own_seconds(work), now) ? Drop::kNone : Drop::kUnmeetable;
}

bool Scheduler::in_time(const Work* work, double needed, Clock::time_point now) const {
  if (work->deadline == Clock::time_point::max()) return true;
  auto found = costs_.find(work->snapshot->binary.get());
  const double caution = found == costs_.end() ? 1 : found->second.caution();
  return seconds(work->deadline - now) >= needed * caution;
}

bool Scheduler::delays(const Block& block, const Work* work, int64_t rows, Clock::time_point now) const {
  auto found = costs_.find(work->snapshot->binary.get());
  if (block.parts.empty() || found == costs_.end()) return false;
  const double needed = found->second.seconds(block.rows() + rows);
  if (!in_time(work, needed, now)) return true;
  return std::any_of(block.parts.begin(), block.parts.end(),
                     [&](const Part& part) { return !in_time(part.work, needed, now); });
}

void Scheduler::drop(Work* work, Drop reason, std::vector<Work*>& ended) {
  ScenarioQueue& queue = *work->queue;
  int64_t left = work->rows - work->next_row_;
  order_.update(queue, [&] { queue.remove(work, large(work)); });
  waiting_rows_ -= left;
  waiting_bytes_ -= work->bytes;
  --waiting_works_;
  work->give_up(reason);
  if (reason == Drop::kUnmeetable) cost(work).relax();
  if (work->end(left)) ended.push_back(work);
}

void Scheduler::drop_dead(ScenarioQueue& queue, Clock::time_point now, std::vector<Work*>& ended) {
  while (!queue.empty()) {
    Drop reason = dead(queue.first(), now);
    if (reason == Drop::kNone) return;
    drop(queue.first(), reason, ended);
  }
}

// Room for `work` in the memory that all queues share, at the expense of the queues that hold more than its own.
bool Scheduler::make_room(const Work* work, std::vector<Work*>& ended) {
  while (waiting_bytes_ > 0 && waiting_bytes_ + work->bytes > limits_.queue_bytes) {
    auto share = [](const ScenarioQueue* queue) {
      return static_cast<double>(queue->bytes()) / queue->policy().weight;
    };
    auto less = [&](const auto& a, const auto& b) { return share(a.second.get()) < share(b.second.get()); };
    ScenarioQueue* longest = std::max_element(queues_.begin(), queues_.end(), less)->second.get();
    double after = static_cast<double>(work->queue->bytes() + work->bytes) / work->queue->policy().weight;
    if (longest == work->queue || share(longest) <= after) return false;
    longest->last()->retry_after_ = advice(wait_seconds(*longest));
    drop(longest->last(), Drop::kServerFull, ended);
  }
  return true;
}

Drop Scheduler::admit(Work* work, Clock::time_point now, std::vector<Work*>& ended) {
  if (stopped_) return Drop::kShutdown;
  if (Drop reason = dead(work, now); reason != Drop::kNone) return reason;
  ScenarioQueue& queue = *work->queue;
  const ScenarioPolicy& policy = queue.policy();
  if (static_cast<int64_t>(queue.size()) >= policy.queue_requests) drop_dead(queue, now, ended);
  double wait = wait_seconds(queue);
  if (static_cast<int64_t>(queue.size()) >= policy.queue_requests ||
      wait * 1e3 > static_cast<double>(policy.queue_ms)) {
    work->retry_after_ = advice(wait);
    return Drop::kQueueFull;
  }
  if (behind_all(work) && !in_time(work, wait + own_seconds(work), now)) return Drop::kUnmeetable;
  if (!make_room(work, ended)) {
    work->retry_after_ = advice(wait);
    return Drop::kServerFull;
  }
  if (auto until = queue.spend(work->rows, now); until.count() > 0) {
    work->retry_after_ = until;
    return Drop::kQuota;
  }
  return Drop::kNone;
}

void Scheduler::enqueue(Work* work) {
  order_.update(*work->queue, [&] { work->queue->push(work, large(work)); });
  waiting_rows_ += work->rows;
  waiting_bytes_ += work->bytes;
  ++waiting_works_;
}

void Scheduler::begin_turns() { turns.taken = true; }

void Scheduler::submit(std::span<Work* const> works) {
  std::vector<Work*> ended;
  for (Work* work : works) {
    work->rows_left_.store(work->rows, std::memory_order_relaxed);
    work->scores.resize(static_cast<size_t>(work->rows * work->snapshot->binary->manifest().tasks));
  }
  bool small = true;
  {
    std::lock_guard lock(mutex_);
    Clock::time_point now = Clock::now();
    for (Work* work : works) {
      if (Drop reason = admit(work, now, ended); reason != Drop::kNone) {
        work->give_up(reason);
        if (reason == Drop::kUnmeetable) cost(work).relax();
        ended.push_back(work);
      } else {
        enqueue(work);
        small = small && work->rows < cpu::kRowBlock;
      }
    }
  }
  if (turns.taken && small) {
    turns.unbegun = true;
    for (Work* work : ended) work->conclude();
  } else {
    begin(ended);
  }
}

void Scheduler::end_turn() {
  if (!std::exchange(turns.unbegun, false)) return;
  std::vector<Work*> ended;
  begin(ended);
}

void Scheduler::begin(std::vector<Work*>& ended) {
  thread_local BatchRunner runner;
  thread_local Block block;
  block.clear();
  bool others = false;
  {
    std::lock_guard lock(mutex_);
    if (little()) take(block, ended);
    others = !order_.empty();
  }
  if (others) available_.notify_one();
  if (!block.parts.empty()) compute(block, runner);
  for (Work* work : ended) work->conclude();
}

bool Scheduler::little() const {
  if (running_ != 0 || order_.empty() || waiting_rows_ > limits_.block_rows) return false;
  const double needed = own_seconds(order_.next().first(), waiting_rows_);
  return needed > 0 && needed <= kInlineSeconds;
}

void Scheduler::cancel(Work* work) {
  std::vector<Work*> ended;
  bool idle = false;
  {
    std::lock_guard lock(mutex_);
    // A client also resets a call whose deadline passed.
    Drop reason = Clock::now() >= work->deadline ? Drop::kExpired : Drop::kCancelled;
    if (work->queued_) drop(work, reason, ended);
    idle = idle_for_somebody();
  }
  if (idle) idle_.notify_one();
  for (Work* gone : ended) gone->conclude();
}

size_t Scheduler::waiting() const {
  std::lock_guard lock(mutex_);
  return waiting_works_;
}

std::vector<Scheduler::Backlog> Scheduler::backlogs() const {
  std::lock_guard lock(mutex_);
  std::vector<Backlog> out;
  out.reserve(queues_.size());
  for (const auto& [name, queue] : queues_) {
    out.push_back({name, static_cast<int64_t>(queue->size()), queue->waiting_rows()});
  }
  return out;
}

template <typename Wait>
bool Scheduler::as_idler(Wait wait) {
  std::unique_lock lock(mutex_);
  ++idlers_;
  const bool found = wait(lock);
  --idlers_;
  return found;
}

bool Scheduler::wait_idle(const std::stop_token& stop) {
  return as_idler([&](auto& lock) { return idle_.wait(lock, stop, [this] { return idle(); }); }) &&
         !stop.stop_requested();
}

bool Scheduler::wait_idle(const std::stop_token& stop, Clock::duration longest) {
  return as_idler([&](auto& lock) { return idle_.wait_for(lock, stop, longest, [this] { return idle(); }); }) &&
         !stop.stop_requested();
}

// Rows of the next block: a share of what waits, also when other workers are busy: they will be free before a block of
// all of it is done, and find nothing to do (guided self-scheduling: Polychronopoulos, Kuck, IEEE TC 1987).
int64_t Scheduler::block_limit() const {
  const Work* next = order_.next().next();
  double shares = static_cast<double>(waiting_rows_) * row_seconds(next) / kWorthSharing;
  auto takers = std::clamp<int64_t>(static_cast<int64_t>(shares), 1, static_cast<int64_t>(limits_.workers));
  return std::min(padded((waiting_rows_ + takers - 1) / takers), most_rows(next));
}

void Scheduler::take_rows(Work* work, int64_t rows, Block& block, Clock::time_point now) {
  if (work->next_row_ == 0) work->begun_ = now;
  block.add({work, work->next_row_, rows});
  ScenarioQueue& queue = *work->queue;
  const double price = static_cast<double>(padded(rows)) * row_seconds(work);
  order_.charge(queue, price, [&] { queue.took(work, large(work), rows); });
  waiting_rows_ -= rows;
  if (!work->queued_) {
    waiting_bytes_ -= work->bytes;
    --waiting_works_;
  }
}

// The call's other works, so that the same candidates meet in one batch.
void Scheduler::take_siblings(Work* work, Block& block, Clock::time_point now) {
  for (Work* other = work->sibling; other != nullptr && other != work; other = other->sibling) {
    bool fits = other->queued_ && other->next_row_ == 0 && other->rows <= block.room(limits_.block_rows, other) &&
                other->snapshot->binary == work->snapshot->binary &&
                (work->snapshot->binary->mixes_snapshots() || other->snapshot == work->snapshot);
    if (fits) take_rows(other, other->rows, block, now);
  }
}

// Whether its rows may be computed with those of the block.
bool Scheduler::joins(const Work* work, int64_t rows, const Block& block) const {
  if (block.parts.empty() || block.segment(work) != nullptr) return true;
  if (work->snapshot->binary != block.parts.front().work->snapshot->binary) return false;
  if (!work->snapshot->binary->mixes_snapshots()) return false;
  if (static_cast<double>(block.rows()) * row_seconds(work) >= kWorthSharing) return false;
  return static_cast<double>(block.padding_with(rows)) * row_seconds(work) <= kCallSeconds;
}

// Rows of the queue's works, as far as there is room. False when the block is full, or a work may not join it.
bool Scheduler::fill(ScenarioQueue& queue, Block& block, int64_t limit, Clock::time_point now,
                     std::vector<Work*>& ended) {
  while (!queue.empty()) {
    Work* work = queue.next();
    if (Drop reason = dead(work, now); reason != Drop::kNone) {
      drop(work, reason, ended);
      continue;
    }
    int64_t left = work->rows - work->next_row_;
    int64_t rows = std::min(left, block.room(limit, work));
    // The rest of a block that several share is not worth cutting a work for.
    if (!block.parts.empty() && rows < left) return false;
    if (!joins(work, rows, block) || delays(block, work, rows, now)) return false;
    take_rows(work, rows, block, now);
    take_siblings(work, block, now);
  }
  return true;
}

// What the next block is; counts it as running if there is one.
void Scheduler::take(Block& block, std::vector<Work*>& ended) {
  Clock::time_point now = Clock::now();
  int64_t limit = block_limit();
  // A scenario's turn is up to a block: its own rows share weights and need no padding.
  while (!order_.empty() && fill(order_.next(), block, limit, now, ended)) continue;
  block.arrange();
  if (!block.parts.empty()) ++running_;
}

// Scores a block that take() made, and concludes its works.
void Scheduler::compute(Block& block, BatchRunner& runner) {
  thread_local bool prepared = [this] {
    if (on_thread_start_) on_thread_start_();
    return true;
  }();
  static_cast<void>(prepared);
  const TemplateBinary* binary = block.parts.front().work->snapshot->binary.get();  // below only its address is used
  BatchRunner::Timing timing = runner.run(block.parts);
  if (timing.rows > 0) observer_({.rows = timing.rows, .padding = timing.padding, .expired_rows = timing.expired_rows});
  for (const Part& part : block.parts) {
    if (part.work->end(part.rows)) part.work->conclude();
  }
  bool more = false;
  bool last = false;
  bool idle = false;
  {
    std::lock_guard lock(mutex_);
    --running_;
    idle = idle_for_somebody();
    last = stopped_ && running_ == 0;
    if (timing.rows > 0) costs_[binary].observe(timing.rows, timing.transform_seconds + timing.compute_seconds);
    more = !order_.empty();
  }
  if (more) available_.notify_one();
  if (idle) idle_.notify_one();
  if (last) ended_.notify_all();
}

void Scheduler::work() {
  BatchRunner runner;
  Block block;
  std::vector<Work*> ended;
  for (;;) {
    block.clear();
    ended.clear();
    bool more = false;
    bool idle = false;
    {
      std::unique_lock lock(mutex_);
      available_.wait(lock, [this] { return stopped_ || (!order_.empty() && running_ < limits_.workers); });
      if (stopped_) return;  // stop() drops what is left
      take(block, ended);
      more = running_ < limits_.workers && !order_.empty();
      idle = idle_for_somebody();
    }
    if (more) available_.notify_one();
    if (idle) idle_.notify_one();
    for (Work* work : ended) work->conclude();
    if (!block.parts.empty()) compute(block, runner);
  }
}

void Scheduler::stop() {
  std::vector<Work*> ended;
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    while (!order_.empty()) {
      ScenarioQueue& queue = order_.next();
      drop(queue.next(), Drop::kShutdown, ended);
    }
  }
  available_.notify_all();
  for (Work* work : ended) work->conclude();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  std::unique_lock lock(mutex_);  // what other threads compute
  ended_.wait(lock, [this] { return running_ == 0; });
}

}  // namespace smt::server
