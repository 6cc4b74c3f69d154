#include "scoring_call.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <random>

#include "log.h"
#include "missing_scenario.h"
#include "names.h"
#include "scheduler.h"

namespace smt::server {
namespace {

constexpr size_t kMaxRequestId = 256;

double seconds(Work::Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

std::string retry_text(std::chrono::milliseconds after) {
  return "; retry after " + std::to_string(after.count()) + " ms, and longer with each attempt";
}

// What the client is told about a target that was dropped.
Failure dropped(const Target& target, Drop drop, std::chrono::milliseconds retry_after) {
  std::string scenario = "scenario " + quote(target.scenario);
  switch (drop) {
    case Drop::kNone:
    case Drop::kFailed:
      return {Outcome::kInternal, scenario + " version " + quote(target.snapshot->version) + ": " + target.error()};
    case Drop::kNoMemory:
      return {Outcome::kResourceExhausted, "not enough memory for this request; send fewer candidates"};
    case Drop::kExpired:
      return {Outcome::kDeadlineExceeded, "the deadline passed before compute started"};
    case Drop::kUnmeetable:
      return {Outcome::kDeadlineExceeded,
              scenario + ": its " + (target.rows > 0 ? std::to_string(target.rows) + " " : "") +
                  "candidates cannot be scored before the deadline; allow more time or send fewer candidates"};
    case Drop::kCancelled:
      return {Outcome::kCancelled, "cancelled by the client before compute started"};
    case Drop::kQueueFull:
      return {Outcome::kResourceExhausted, scenario + ": its queue is full" + retry_text(retry_after), retry_after};
    case Drop::kQuota:
      return {Outcome::kResourceExhausted,
              scenario + ": its quota of rows per second is used up" + retry_text(retry_after), retry_after};
    case Drop::kServerFull:
      return {Outcome::kResourceExhausted,
              "the server's queues are full, and that of " + scenario + " is the longest" + retry_text(retry_after),
              retry_after};
    case Drop::kShutdown:
      return {Outcome::kUnavailable, "the server is draining; send the request to another one"};
  }
  return {};
}

}  // namespace

void Target::concluded(Drop drop) noexcept {
  if (drop != Drop::kNone) {
    failure = dropped(*this, drop, retry_after());
  } else if (Clock::now() >= deadline) {
    metrics->late_rows->Increment(static_cast<double>(rows));
    failure = Failure{Outcome::kDeadlineExceeded, "the deadline passed while the scores were computed"};
  }
  call_.target_concluded();
}

bool Target::cancelled() const noexcept { return call_.cancelled(); }

bool Target::column(const Task& head, float* out) {
  auto heads_count = static_cast<size_t>(snapshot->binary->manifest().tasks);
  const float* score = scores.data() + head.head;
  for (int64_t row = 0; row < rows; ++row, score += heads_count) {
    if (!std::isfinite(*score)) {
      failure = Failure{Outcome::kInternal, "scenario " + quote(snapshot->scenario) + " version " +
                                                quote(snapshot->version) + " task " + quote(head.name) +
                                                ": the score of row " + std::to_string(row) + " is not finite"};
      return false;
    }
    out[row] = *score;
  }
  return true;
}

ScoringCall::ScoringCall(ServerState& state, Clock::time_point deadline, size_t bytes)
    : state_(state), deadline_(deadline), bytes_(bytes) {}

// Acquires what workers released in target_concluded(): they are done with the weights that may go with this call. gRPC
// orders that too, between the answer and the end of the call, but ThreadSanitizer does not see into that library.
ScoringCall::~ScoringCall() { static_cast<void>(left_.load(std::memory_order_acquire)); }

void ScoringCall::offer_to_shadows() noexcept {
  for (const auto& target : targets_) {
    if (!target->shadow || target->failure || target->scores.empty()) continue;
    try {
      state_.shadows.offer({.route = target->shadow,
                            .request = keep(),
                            .scores = std::move(target->scores),
                            .metrics = target->metrics});
    } catch (const std::bad_alloc&) {
      target->metrics->shadow(ShadowResult::kDropped).Increment();
    }
  }
}

Target& ScoringCall::add_target() { return *targets_.emplace_back(std::make_unique<Target>(*this)); }

void ScoringCall::start() noexcept {
  if (refuse_now()) return;
  try {
    admit();
  } catch (const Failure& failure) {
    return refuse(failure);
  } catch (const transform::InputError& error) {
    return refuse({Outcome::kInvalidArgument, error.what()});
  } catch (const std::bad_alloc&) {
    return refuse({Outcome::kResourceExhausted, "not enough memory for this request; send fewer candidates"});
  } catch (const std::exception& error) {
    return refuse({Outcome::kInternal, error.what()});
  }
  submit();
}

bool ScoringCall::refuse_now() noexcept {
  try {
    const std::optional<Failure> failure = early_failure();
    if (failure) refuse(*failure);
    return failure.has_value();
  } catch (const std::bad_alloc&) {
    refuse({Outcome::kResourceExhausted, "not enough memory for this request; send fewer candidates"});
    return true;
  }
}

void ScoringCall::cancel() noexcept {
  cancelled_.store(true);
  if (!submitted_.load()) return;
  for (const auto& target : targets_) {
    if (target->queue != nullptr) state_.scheduler.cancel(target.get());
  }
}

void ScoringCall::admit() {
  decode();
  if (request_id_.size() > kMaxRequestId) {
    std::string found = std::to_string(request_id_.size());
    request_id_ = {};  // neither echoed nor logged
    throw Failure{Outcome::kInvalidArgument,
                  "request_id: " + found + " bytes; expected at most " + std::to_string(kMaxRequestId)};
  }
  for (const auto& target : targets_) {
    if (!many_) {
      resolve(*target);
      continue;
    }
    try {
      resolve(*target);
    } catch (const Failure& failure) {
      target->failure = failure;
    } catch (const transform::InputError& error) {
      target->failure = Failure{Outcome::kInvalidArgument, error.what()};
    }
  }
  if (many_) check_read();
}

// Under overload most requests end here, before anything was spent on them but their transport.
std::optional<Failure> ScoringCall::early_failure() {
  const Beginning seen = peek();
  peeked_ = seen.scenario;
  if (peeked_.empty()) return std::nullopt;
  ScenarioStore::Served served = state_.store.served(peeked_);
  if (!served.stable) return std::nullopt;
  Target probe(*this);
  probe.scenario = peeked_;
  probe.rows = std::min<int64_t>(seen.rows, state_.options.max_rows);
  probe.deadline = deadline_;
  probe.queue = &state_.scheduler.queue(peeked_);
  // With a canary there are two binaries, and it is not known yet whose turn it is: neither's time is counted then.
  if (served.labels == nullptr) probe.snapshot = std::move(served.stable);
  std::chrono::milliseconds retry_after{0};
  const Drop drop = state_.scheduler.refuses(probe, retry_after);
  if (drop == Drop::kNone) return std::nullopt;
  return dropped(probe, drop, retry_after);
}

void ScoringCall::resolve(Target& target) {
  if (target.scenario.empty()) {
    throw Failure{Outcome::kInvalidArgument,
                  target.where + target.names.scenario + ": empty; expected the name of a scenario"};
  }
  target.metrics = &state_.metrics.find(target.scenario);
  choose_version(target);
  const LoadedSnapshot& snapshot = *target.snapshot;
  resolve_tasks(target);
  check(target);
  target.rows = rows_;
  target.arrived = arrived_;
  target.deadline = deadline_;
  target.bytes = bytes_ / targets_.size();
  target.queue = &state_.scheduler.queue(snapshot.scenario);
}

void ScoringCall::choose_version(Target& target) {
  ScenarioStore::Served served = state_.store.served(target.scenario);
  if (!served.stable) {
    MissingScenario missing = describe_missing(state_, target.scenario);
    throw Failure{missing.unknown ? Outcome::kNotFound : Outcome::kUnavailable, target.where + missing.message};
  }
  const LabelRoutes* labels = served.labels.get();
  bool canary = false;
  if (!target.label.empty()) {
    canary = labels != nullptr && target.label == kCanary;
    if (!canary && target.label != kStable) {
      throw Failure{Outcome::kNotFound, target.where + "label: " + quote(target.label) +
                                            " names no version of scenario " + quote(target.scenario) + "; expected " +
                                            quote(kStable) + (labels != nullptr ? ", " + quote(kCanary) : "") +
                                            ", or none"};
    }
  } else if (!target.version.empty()) {
    canary = labels != nullptr && labels->canary->version == target.version;
  } else if (labels != nullptr) {
    canary = label_position(target.scenario, route_key()) < labels->percent;
    target.arm = canary ? Arm::kCanary : Arm::kStable;
    target.monitor = labels->monitor;
  }
  if (!canary && served.shadow && sampled(served.shadow->percent)) target.shadow = std::move(served.shadow);
  target.snapshot = canary ? labels->canary : std::move(served.stable);
  if (!target.version.empty() && target.version != target.snapshot->version) {
    throw Failure{Outcome::kNotFound, target.where + target.names.version + ": " + quote(target.version) +
                                          " of scenario " + quote(target.scenario) + " is not being served; " +
                                          quote(target.snapshot->version) + " is"};
  }
}

// Of a request with neither key nor id: any, another one each time.
std::string_view ScoringCall::route_key() {
  if (!request_key_.empty()) return request_key_;
  if (!request_id_.empty()) return request_id_;
  static std::atomic<uint64_t> count{std::random_device{}()};
  own_key_ = std::to_string(count.fetch_add(1, std::memory_order_relaxed));
  return own_key_;
}

void ScoringCall::resolve_tasks(Target& target) {
  const LoadedSnapshot& snapshot = *target.snapshot;
  if (target.tasks.empty()) {
    for (const Task& task : snapshot.tasks) target.heads.push_back(&task);
    return;
  }
  for (size_t i = 0; i < target.tasks.size(); ++i) {
    std::string_view name = target.tasks[i];
    auto same = [&](const Task& task) { return task.name == name; };
    auto found = std::find_if(snapshot.tasks.begin(), snapshot.tasks.end(), same);
    std::string where = target.where + target.names.tasks + "[" + std::to_string(i) + "]: ";
    if (found == snapshot.tasks.end()) {
      std::vector<std::string> names;
      for (const Task& task : snapshot.tasks) names.push_back(task.name);
      throw Failure{Outcome::kInvalidArgument, where + quote(name) + " is not a task of scenario " +
                                                   quote(snapshot.scenario) + "; its tasks: " + joined(names)};
    }
    if (std::find(target.heads.begin(), target.heads.end(), &*found) != target.heads.end()) {
      throw Failure{Outcome::kInvalidArgument, where + quote(name) + " occurs twice; expected each task once"};
    }
    target.heads.push_back(&*found);
  }
}

void ScoringCall::check(Target& target) {
  const transform::FeatureSpec& features = target.snapshot->features;
  transform::Limits limits;
  limits.max_rows = state_.options.max_rows;
  if (!many_) return features.check(rows_, context_, candidates_, limits, target.columns);
  auto reads = [&](const transform::Column& column) { return features.reads(column.name); };
  std::copy_if(context_.begin(), context_.end(), std::back_inserter(target.context_), reads);
  std::copy_if(candidates_.begin(), candidates_.end(), std::back_inserter(target.candidates_), reads);
  features.check(rows_, target.context_, target.candidates_, limits, target.columns);
}

// A column that no scenario of the call reads is a mistake, as it is in a call of one scenario.
void ScoringCall::check_read() {
  auto read = [&](const transform::Column& column) {
    return std::any_of(targets_.begin(), targets_.end(), [&](const auto& target) {
      return !target->snapshot || target->snapshot->features.reads(column.name);
    });
  };
  for (const auto* columns : {&context_, &candidates_}) {
    for (const transform::Column& column : *columns) {
      if (read(column)) continue;
      throw Failure{Outcome::kInvalidArgument,
                    "feature " + quote(column.name) + ": unknown feature; no scenario of this call reads it"};
    }
  }
}

void ScoringCall::submit() {
  std::vector<Work*> works;
  for (const auto& target : targets_) {
    if (!target->failure) works.push_back(target.get());
  }
  for (size_t i = 0; works.size() > 1 && i < works.size(); ++i) works[i]->sibling = works[(i + 1) % works.size()];
  left_.store(static_cast<int64_t>(works.size()) + 1, std::memory_order_relaxed);
  submitted_.store(true);
  state_.scheduler.submit(works);
  target_concluded();  // for start()
}

void ScoringCall::target_concluded() noexcept {
  if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) respond();
}

void ScoringCall::account(Target& target) {
  ScenarioMetrics& metrics = target.metrics == nullptr ? state_.metrics.find("") : *target.metrics;
  Outcome outcome = target.failure ? target.failure->outcome : Outcome::kOk;
  if (outcome == Outcome::kOk) {
    metrics.rows->Increment(static_cast<double>(target.rows));
    metrics.queue_seconds->Observe(seconds(target.begun() - arrived_));
    metrics.transform_seconds->Observe(seconds(target.transform_time()));
    metrics.compute_seconds->Observe(seconds(target.compute_time()));
  }
  metrics.outcome(outcome).Increment();
  const double taken = seconds(Clock::now() - arrived_);
  metrics.request_seconds->Observe(taken);
  if (outcome != Outcome::kOk) metrics.failed_seconds->Increment(taken);
  compare(target, outcome, taken);
  log_request(target, outcome, target.failure ? target.failure->message : "");
}

void ScoringCall::account(const Failure& failure) {
  Target nobody(*this);
  if (peeked_.empty()) peeked_ = peek().scenario;  // refused before it was looked at: the server is draining
  nobody.scenario = !targets_.empty() && !many_ ? targets_.front()->scenario : peeked_;
  nobody.metrics = &state_.metrics.find(nobody.scenario);
  nobody.failure = failure;
  if (!targets_.empty() && !many_) {
    nobody.arm = targets_.front()->arm;
    nobody.monitor = targets_.front()->monitor;
  }
  account(nobody);
}

void ScoringCall::compare(const Target& target, Outcome outcome, double seconds) {
  if (!target.monitor) return;
  if (target.arm == Arm::kCanary && target.metrics != nullptr) target.metrics->canary(outcome).Increment();
  target.monitor->answered(target.arm, outcome, seconds);
  if (outcome != Outcome::kOk) return;
  const auto heads = static_cast<size_t>(target.snapshot->binary->manifest().tasks);
  for (const Task* task : target.heads) {
    double sum = 0;
    for (size_t at = static_cast<size_t>(task->head); at < target.scores.size(); at += heads) sum += target.scores[at];
    target.monitor->scored(target.arm, task->name, sum / static_cast<double>(target.rows));
  }
}

void ScoringCall::log_request(const Target& target, Outcome outcome, const std::string& message) {
  std::string_view code = kOutcomeNames[static_cast<size_t>(outcome)];
  bool failed = outcome != Outcome::kOk;
  log::Level level = outcome == Outcome::kInternal ? log::Level::kError : log::Level::kDebug;
  bool sampled = state_.access_log.sampled();
  if (!sampled && !(failed && log::enabled(level))) return;
  auto micros = [](Clock::duration duration) {
    return std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
  };
  log::write(sampled ? log::Level::kInfo : level, failed ? "request_failed" : "request",
             {{"code", code},
              {"message", shortened(message)},
              {"scenario", shortened(std::string(target.scenario), 80)},
              {"version", target.snapshot ? target.snapshot->version : ""},
              {"rows", rows_},
              {"total_us", micros(Clock::now() - arrived_)},
              {"queue_us", failed ? 0 : micros(target.begun() - arrived_)},
              {"compute_us", micros(target.compute_time())},
              {"request_id", std::string(request_id_)},
              {"traceparent", trace_parent()}});
}

}  // namespace smt::server
