#include "worker.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "promptness.h"

namespace smt::loadgen {
namespace {

constexpr Nanos kConnectWithin = 5 * kSecond;
constexpr Nanos kReconnectAfter = kSecond / 10;
// A caller whose call could not even be sent waits so long: without a connection it would spin.
constexpr Nanos kCallerBackOff = kSecond / 100;
constexpr Nanos kPublishEvery = kSecond / 10;
constexpr Nanos kLongestWait = kSecond / 20;  // between looks at RunState::end
// Arrivals started before the connections are served again, when the generator is behind.
constexpr int kMostStartedAtOnce = 64;

nghttp2_nv header(std::string_view name, std::string_view value) {
  auto bytes = [](std::string_view text) { return reinterpret_cast<uint8_t*>(const_cast<char*>(text.data())); };
  return {bytes(name), bytes(value), name.size(), value.size(),
          NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
}

}  // namespace

Worker::Worker(const RunState& run, int index) : run_(run), index_(index), buffer_(256 << 10) {
  const Plan& plan = run.plan;
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_ < 0) throw std::system_error(errno, std::generic_category(), "epoll");
  for (const Stream& stream : plan.streams) {
    auto& headers = headers_.emplace_back();
    headers = {header(":method", "POST"),
               header(":scheme", plan.use_tls ? "https" : "http"),
               header(":path", stream.path),
               header("te", "trailers"),
               header("content-type", "application/grpc"),
               header("user-agent", "smt-loadgen")};
    for (const auto& [name, value] : stream.headers) headers.push_back(header(name, value));
    headers.push_back(header("grpc-timeout", ""));
  }
  for (uint32_t i = 0; i < plan.sources.size(); ++i) {
    bool closed = plan.sources[i].mode == Mode::kClosed;
    choosers_.push_back(closed ? std::make_unique<Chooser>(plan, i, index) : nullptr);
    if (!closed) open_.push_back({i, Schedule(plan, i, index, plan.threads), std::nullopt});
    for (int caller = index; closed && caller < plan.sources[i].callers; caller += plan.threads) {
      idle_callers_.push_back(i);
    }
  }
  std::seed_seq seed{static_cast<uint32_t>(plan.seed), static_cast<uint32_t>(index), 0xd15c0u};
  random_.seed(seed);
  stats_.streams.resize(plan.streams.size());
  stats_.lag.resize(plan.sources.size());
  for (int i = index; i < plan.connections; i += plan.threads) {
    slots_.push_back({&run.addresses[static_cast<size_t>(i) % run.addresses.size()], nullptr, 0});
  }
}

Worker::~Worker() { ::close(epoll_); }

void Worker::open(Slot& slot) {
  slot.connection = std::make_unique<Connection>(*slot.address, run_.tls, run_.plan.tls.server_name, epoll_, *this);
}

void Worker::connect() {
  for (Slot& slot : slots_) open(slot);
  Nanos until = now_ns() + kConnectWithin;
  for (Slot& slot : slots_) {
    while (!slot.connection->ready()) {
      if (slot.connection->closed()) {
        throw std::runtime_error("cannot connect to " + slot.address->name + ": " + slot.connection->error());
      }
      if (now_ns() > until) throw std::runtime_error("cannot connect to " + slot.address->name + ": no answer");
      poll(kLongestWait);
      flush();
    }
  }
}

void Worker::run() {
  // Callers of a closed loop wait anyway, and the server need not be interrupted for them.
  if (!open_.empty()) stats_.prompt = run_promptly();
  for (Open& open : open_) open.next = open.schedule.next();
  if (run_.plan.disconnects > 0) next_break_ = run_.began;
  Nanos drained = INT64_MAX;
  for (;;) {
    Nanos now = now_ns();
    if (now < run_.began) {
      poll(std::min(run_.began - now, kLongestWait));
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
    if (now >= next_break_ && !over_) break_connection(now);
    start_due(now);
    flush();
    mend_connections(now);
    publish(now);
    poll(next_moment(now_ns()));
  }
  calls_.for_each([&](Call& call) {
    if (!call.finished) finished(call, kUnfinished);
  });
  for (Slot& slot : slots_) {
    if (slot.connection) draining_.push_back(std::move(slot.connection));
  }
  for (auto& connection : draining_) {
    connection->close("the run is over");
    retire(*connection);
  }
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
  call.sent = now_ns();
  call.intended = intended.value_or(call.sent);
  call.timeout = choice.timeout;
  ++outstanding_;
  if (!call.closed) {
    Nanos lag = call.sent - call.intended;
    interval_.lag.record(lag);
    if (call.intended >= run_.began + run_.plan.warm_up) stats_.lag[source].record(lag);
  }
  Connection* connection = pick();
  if (outstanding_ > run_.plan.max_outstanding || connection == nullptr) {
    finished(call, connection == nullptr ? kNoConnection : kNotSent);
    released(call);
    return;
  }
  if (choice.timeout >= 0) {
    call.deadline = call.sent + stream.timeouts[static_cast<size_t>(choice.timeout)].after;
    timers_.push({call.deadline + stream.linger, Due::kDeadline, call.number, &call, 0});
  }
  if (choice.cancel >= 0) timers_.push({call.sent + choice.cancel, Due::kCancel, call.number, &call, 0});
  send(call, *connection);
}

void Worker::send(Call& call, Connection& connection) {
  std::span<nghttp2_nv> headers = headers_[call.stream];
  if (call.timeout < 0) {
    headers = headers.first(headers.size() - 1);
  } else {
    const std::string& value = run_.plan.streams[call.stream].timeouts[static_cast<size_t>(call.timeout)].header;
    headers.back().value = reinterpret_cast<uint8_t*>(const_cast<char*>(value.data()));
    headers.back().valuelen = value.size();
  }
  call.connection = &connection;
  connection.submit(call, headers);
}

// The connection with the fewest calls under way; among equals, each in turn.
Connection* Worker::pick() {
  Connection* best = nullptr;
  for (size_t i = 0; i < slots_.size(); ++i) {
    Connection* connection = slots_[(turn_ + i) % slots_.size()].connection.get();
    if (connection == nullptr || !connection->ready()) continue;
    if (best == nullptr || connection->outstanding() < best->outstanding()) best = connection;
    if (best->outstanding() == 0) break;
  }
  ++turn_;
  return best;
}

void Worker::finished(Call& call, Outcome outcome) {
  Nanos now = now_ns();
  call.finished = true;
  --outstanding_;
  bool too_short = call.message_bytes() < run_.plan.streams[call.stream].min_response_bytes;
  if (outcome == kOk && too_short) outcome = kBadAnswer;
  record(call, outcome, now);
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
  Connection* connection = call.retried ? nullptr : pick();
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
  auto& histogram = stream.latency[outcome];
  if (!histogram) histogram = std::make_unique<Histogram>();
  histogram->record(latency);
  if (outcome != kNoConnection && outcome != kNotSent) stream.request_bytes += call.payload->size;
  stream.response_bytes += call.message_bytes();
  if (outcome != kOk) return;
  stream.ok_rows += call.payload->rows;
  if (call.deadline > 0 && now > call.deadline) {
    ++stream.late_ok;
    stream.latest_ok = std::max(stream.latest_ok, now - call.deadline);
  }
}

void Worker::fire(const Timer& timer) {
  if (timer.due == Due::kCaller) {
    if (!over_) idle_callers_.push_back(timer.source);
    return;
  }
  Call& call = *timer.call;
  if (call.number != timer.number || call.finished) return;
  call.connection->cancel(call);
  finished(call, timer.due == Due::kDeadline ? kClientDeadline : kClientCancelled);
}

Nanos Worker::next_moment(Nanos now) const {
  if (!idle_callers_.empty() && !over_) return 0;
  Nanos next = std::min({now + kLongestWait, next_break_, run_.end.load(std::memory_order_relaxed)});
  if (over_) next = now + kSecond / 1000;
  if (!timers_.empty()) next = std::min(next, timers_.top().at);
  for (const Open& open : open_) {
    if (open.next) next = std::min(next, run_.began + open.next->at);
  }
  return std::max<Nanos>(0, next - now);
}

void Worker::poll(Nanos wait) {
  std::array<epoll_event, 64> events;
  timespec timeout = to_timespec(wait);
  int count = epoll_pwait2(epoll_, events.data(), static_cast<int>(events.size()), &timeout, nullptr);
  for (int i = 0; i < count; ++i) static_cast<Connection*>(events[static_cast<size_t>(i)].data.ptr)->on_event(buffer_);
}

void Worker::flush() {
  for (Slot& slot : slots_) {
    if (slot.connection) slot.connection->flush();
  }
  for (auto& connection : draining_) connection->flush();
}

void Worker::mend_connections(Nanos now) {
  for (Slot& slot : slots_) {
    if (slot.connection && slot.connection->draining()) {
      draining_.push_back(std::move(slot.connection));
      slot.retry_at = now;
    } else if (slot.connection && slot.connection->closed()) {
      retire(*slot.connection);
      slot.connection.reset();
      if (slot.retry_at == 0) slot.retry_at = now + kReconnectAfter;
    }
    if (!slot.connection && now >= slot.retry_at && !over_) {
      open(slot);
      slot.retry_at = 0;
    }
  }
  std::erase_if(draining_, [&](const auto& connection) {
    if (connection->closed()) retire(*connection);
    return connection->closed();
  });
}

void Worker::retire(const Connection& connection) {
  stats_.bytes_in += connection.bytes_in();
  stats_.bytes_out += connection.bytes_out();
  if (connection.lived()) ++stats_.connections_ended;
}

void Worker::break_connection(Nanos now) {
  double own = run_.plan.disconnects * static_cast<double>(slots_.size()) / run_.plan.connections;
  bool first = next_break_ == run_.began;
  next_break_ = now + std::llround(std::exponential_distribution<double>(own)(random_) * kSecond);
  if (first) return;
  Slot& slot = slots_[random_() % slots_.size()];
  if (!slot.connection || !slot.connection->ready()) return;
  slot.connection->close("broken by the plan", true);
  slot.retry_at = now;
  ++stats_.connections_broken;
}

void Worker::publish(Nanos now) {
  if (now < next_publish_) return;
  next_publish_ = now == INT64_MAX ? now : now + kPublishEvery;
  interval_.outstanding = static_cast<uint64_t>(outstanding_);
  box_.put(interval_);
}

}  // namespace smt::loadgen
