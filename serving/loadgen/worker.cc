#include "worker.h"

#include <algorithm>
#include <string_view>

#include "promptness.h"

namespace smt::loadgen {
namespace {

// A caller whose call could not even be sent waits so long: without a connection it would spin.
constexpr Nanos kCallerBackOff = kSecond / 100;
constexpr Nanos kPublishEvery = kSecond / 10;
constexpr Nanos kLongestWait = kSecond / 20;       // between looks at RunState::end
constexpr Nanos kLookForAnswers = kSecond / 1000;  // at the end
// Arrivals started before the connections are served again, when the generator is behind.
constexpr int kMostStartedAtOnce = 64;

nghttp2_nv header(std::string_view name, std::string_view value) {
  auto bytes = [](std::string_view text) { return reinterpret_cast<uint8_t*>(const_cast<char*>(text.data())); };
  return {bytes(name), bytes(value), name.size(), value.size(),
          NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
}

void record_in(std::unique_ptr<Histogram>& histogram, Nanos span) {
  if (!histogram) histogram = std::make_unique<Histogram>();
  histogram->record(span);
}

}  // namespace

Worker::Worker(const RunState& run, int index) : run_(run), connections_(run, index, *this) {
  const Plan& plan = run.plan;
  for (const Stream& stream : plan.streams) {
    auto& headers = headers_.emplace_back();
    headers = {header(":method", "POST"),
               header(":scheme", plan.use_tls ? "https" : "http"),
               header(":path", stream.path),
               header("te", "trailers"),
               header("content-type", "application/grpc"),
               header("user-agent", "smt-loadgen")};
    for (const auto& [name, value] : stream.headers) headers.push_back(header(name, value));
  }
  for (uint32_t i = 0; i < plan.sources.size(); ++i) {
    bool closed = plan.sources[i].mode == Mode::kClosed;
    choosers_.push_back(closed ? std::make_unique<Chooser>(plan, i, index) : nullptr);
    if (!closed) open_.push_back({i, Schedule(plan, i, index, plan.threads), std::nullopt});
    for (int caller = index; closed && caller < plan.sources[i].callers; caller += plan.threads) {
      idle_callers_.push_back(i);
    }
  }
  if (!plan.answers.empty()) answers_.emplace(plan.answers / ("answers-" + std::to_string(index) + ".bin"));
  stats_.streams.resize(plan.streams.size());
  stats_.lag.resize(plan.sources.size());
}

void Worker::run() {
  // Callers of a closed loop wait anyway, and the server need not be interrupted for them.
  if (!open_.empty()) stats_.prompt = run_promptly();
  for (Open& open : open_) open.next = open.schedule.next();
  Nanos drained = INT64_MAX;
  for (;;) {
    Nanos now = now_ns();
    if (now < run_.began) {
      connections_.poll(std::min(run_.began - now, kLongestWait));
      continue;
    }
    Nanos end = run_.end.load(std::memory_order_relaxed);
    // An arrival that was meant to be is made, however late.
    bool arrivals = std::any_of(open_.begin(), open_.end(),
                                [&](const Open& open) { return open.next && run_.began + open.next->at < end; });
    over_ = now >= end;
    if (over_ && !arrivals) {
      drained = std::min(drained, now + run_.plan.drain);
      if (outstanding_ == 0 || now >= drained) break;
    }
    while (!timers_.empty() && timers_.top().at <= now) {
      Timer timer = timers_.top();
      timers_.pop();
      fire(timer);
    }
    start_due(now);
    connections_.flush();
    if (!over_) connections_.renew(now);
    publish(now);
    connections_.poll(next_moment(now_ns()));
  }
  calls_.for_each([&](Call& call) {
    if (!call.finished) finished(call, kUnfinished);
  });
  connections_.close(stats_);
  publish(INT64_MAX);
}

void Worker::start_due(Nanos now) {
  for (Open& open : open_) {
    Nanos end = run_.end.load(std::memory_order_relaxed) - run_.began;
    for (int i = 0; i < kMostStartedAtOnce && open.next && open.next->at <= std::min(now - run_.began, end - 1); ++i) {
      start(open.source, open.next->choice, run_.began + open.next->at);
      open.next = open.schedule.next();
    }
  }
  if (over_) return;
  // Those that call while this runs take their next turn in the next one.
  std::vector<uint32_t> callers;
  callers.swap(idle_callers_);
  for (uint32_t source : callers) start(source, choosers_[source]->next(), std::nullopt);
}

void Worker::start(uint32_t source, const Choice& choice, std::optional<Nanos> intended) {
  const Stream& stream = run_.plan.streams[choice.stream];
  Call& call = calls_.take();
  call.source = source;
  call.stream = choice.stream;
  call.payload = &run_.payloads[choice.payload];
  call.closed = !intended;
  const Nanos now = now_ns();
  call.intended = intended.value_or(now);
  ++outstanding_;
  if (!call.closed) {
    Nanos lag = now - call.intended;
    interval_.lag.record(lag);
    if (call.intended >= run_.began + run_.plan.warm_up) stats_.lag[source].record(lag);
  }
  Connection* connection = connections_.pick();
  if (outstanding_ > run_.plan.max_outstanding || connection == nullptr) {
    finished(call, connection == nullptr ? kNoConnection : kNotSent);
    released(call);
    return;
  }
  if (choice.timeout >= 0) {
    call.deadline = call.intended + stream.timeouts[static_cast<size_t>(choice.timeout)].after;
    timers_.push({call.deadline, Due::kDeadline, call.number, &call, 0});
  }
  if (choice.cancel >= 0) timers_.push({now + choice.cancel, Due::kCancel, call.number, &call, 0});
  send(call, *connection);
}

void Worker::send(Call& call, Connection& connection) {
  call.connection = &connection;
  call.sent = 0;
  call.keep_answer = answers_.has_value();
  connection.submit(call, headers_[call.stream]);
}

void Worker::finished(Call& call, Outcome outcome) {
  Nanos now = now_ns();
  call.finished = true;
  --outstanding_;
  bool too_short = call.message_bytes() < run_.plan.streams[call.stream].min_response_bytes;
  if (outcome == kOk && too_short) outcome = kBadAnswer;
  record(call, outcome, now);
  if (outcome == kOk && answers_) {
    const Payload* first = &run_.payloads[run_.plan.streams[call.stream].first_payload];
    answers_->write(call.stream, static_cast<uint32_t>(call.payload - first), call.answer);
  }
  if (!call.closed || over_) return;
  Nanos pause = run_.plan.sources[call.source].think;
  if (outcome == kNoConnection || outcome == kNotSent) pause = std::max(pause, kCallerBackOff);
  if (pause > 0) {
    timers_.push({now + pause, Due::kCaller, 0, nullptr, call.source});
  } else {
    idle_callers_.push_back(call.source);
  }
}

void Worker::refused(Call& call) {
  Connection* connection = call.retried ? nullptr : connections_.pick();
  if (connection == nullptr) {
    finished(call, call.retried ? kStreamReset : kNoConnection);
    released(call);
    return;
  }
  call.retried = true;
  call.payload_sent = 0;
  ++stats_.retried;
  send(call, *connection);
}

void Worker::released(Call& call) { calls_.give_back(call); }

void Worker::record(const Call& call, Outcome outcome, Nanos now) {
  StreamStats& stream = stats_.streams[call.stream];
  Nanos latency = now - call.intended;
  ++stream.total[outcome];
  if (outcome == kOk) {
    ++interval_.ok;
    interval_.rows += call.payload->rows;
    interval_.latency.record(latency);
  } else {
    ++interval_.failed;
  }
  Nanos moment = call.closed ? now : call.intended;
  Nanos end = run_.end.load(std::memory_order_relaxed);
  if (moment < run_.began + run_.plan.warm_up || moment >= end) return;
  record_in(stream.latency[outcome], latency);
  if (call.sent != 0) {
    record_in(stream.since_sent[outcome], now - call.sent);
    stream.request_bytes += call.payload->size;
  }
  stream.response_bytes += call.message_bytes();
  if (outcome != kOk) return;
  stream.ok_rows += call.payload->rows;
  // When it was here, whenever this thread got to read it: that is what the server can be blamed for.
  const Nanos arrived = now - call.waited;
  if (call.deadline > 0 && arrived > call.deadline) {
    ++stream.late_ok;
    stream.latest_ok = std::max(stream.latest_ok, arrived - call.deadline);
  }
}

void Worker::fire(const Timer& timer) {
  if (timer.due == Due::kCaller) {
    if (!over_) idle_callers_.push_back(timer.source);
    return;
  }
  Call& call = *timer.call;
  if (call.number != timer.number || call.finished) return;
  const Nanos linger = run_.plan.streams[call.stream].linger;
  if (timer.due == Due::kDeadline && call.sent != 0 && linger > 0) {
    timers_.push({timer.at + linger, Due::kLingered, timer.number, &call, 0});
    return;
  }
  Outcome outcome = call.sent != 0 ? kClientDeadline : kUnsentDeadline;
  finished(call, timer.due == Due::kCancel ? kClientCancelled : outcome);
  call.connection->cancel(call);
}

Nanos Worker::next_moment(Nanos now) const {
  if (!idle_callers_.empty() && !over_) return 0;
  Nanos end = run_.end.load(std::memory_order_relaxed);
  Nanos next = over_ ? now + kLookForAnswers : std::min({now + kLongestWait, connections_.next_break(), end});
  if (!timers_.empty()) next = std::min(next, timers_.top().at);
  for (const Open& open : open_) {
    if (open.next && run_.began + open.next->at < end) next = std::min(next, run_.began + open.next->at);
  }
  return std::max<Nanos>(0, next - now);
}

void Worker::publish(Nanos now) {
  if (now < next_publish_) return;
  next_publish_ = now == INT64_MAX ? now : now + kPublishEvery;
  interval_.outstanding = static_cast<uint64_t>(outstanding_);
  box_.put(interval_);
}

}  // namespace smt::loadgen
