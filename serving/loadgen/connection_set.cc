#include "connection_set.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <stdexcept>
#include <system_error>

namespace smt::loadgen {
namespace {

constexpr Nanos kConnectWithin = 5 * kSecond;
constexpr Nanos kLookWhileConnecting = kSecond / 20;
constexpr Nanos kReconnectAfter = kSecond / 10;
constexpr size_t kReadAtOnce = 256 << 10;

}  // namespace

ConnectionSet::ConnectionSet(const RunState& run, int worker, CallEvents& events)
    : run_(run), events_(events), epoll_(epoll_create1(EPOLL_CLOEXEC)), buffer_(kReadAtOnce) {
  if (epoll_ < 0) throw std::system_error(errno, std::generic_category(), "epoll");
  const Plan& plan = run.plan;
  for (int i = worker; i < plan.connections; i += plan.threads) {
    slots_.push_back({&run.addresses[static_cast<size_t>(i) % run.addresses.size()], nullptr, 0});
  }
  std::seed_seq seed{static_cast<uint32_t>(plan.seed), static_cast<uint32_t>(worker), 0xd15c0u};
  random_.seed(seed);
  if (plan.disconnects > 0) {
    double own = plan.disconnects * static_cast<double>(slots_.size()) / plan.connections;
    break_gap_ = std::exponential_distribution<double>(own);
    next_break_ = 0;
  }
}

ConnectionSet::~ConnectionSet() { ::close(epoll_); }

void ConnectionSet::open(Slot& slot) {
  slot.connection = std::make_unique<Connection>(*slot.address, run_.tls, run_.plan.tls.server_name, epoll_, events_);
  slot.retry_at = 0;
}

void ConnectionSet::connect() {
  for (Slot& slot : slots_) open(slot);
  Nanos until = now_ns() + kConnectWithin;
  for (Slot& slot : slots_) {
    while (!slot.connection->ready()) {
      if (slot.connection->closed()) {
        throw std::runtime_error("cannot connect to " + slot.address->name + ": " + slot.connection->error());
      }
      if (now_ns() > until) throw std::runtime_error("cannot connect to " + slot.address->name + ": no answer");
      poll(kLookWhileConnecting);
      flush();
    }
  }
}

Connection* ConnectionSet::pick() {
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

void ConnectionSet::poll(Nanos wait) {
  std::array<epoll_event, 64> events;
  timespec timeout = to_timespec(wait);
  int count = epoll_pwait2(epoll_, events.data(), static_cast<int>(events.size()), &timeout, nullptr);
  for (int i = 0; i < count; ++i) static_cast<Connection*>(events[static_cast<size_t>(i)].data.ptr)->on_event(buffer_);
}

void ConnectionSet::flush() {
  for (Slot& slot : slots_) {
    if (slot.connection) slot.connection->flush();
  }
  for (auto& connection : draining_) connection->flush();
}

void ConnectionSet::renew(Nanos now) {
  if (now >= next_break_) break_one(now);
  for (Slot& slot : slots_) {
    if (slot.connection && slot.connection->draining()) {
      draining_.push_back(std::move(slot.connection));
      slot.retry_at = now;
    } else if (slot.connection && slot.connection->closed()) {
      count(*slot.connection);
      slot.connection.reset();
      if (slot.retry_at == 0) slot.retry_at = now + kReconnectAfter;
    }
    if (!slot.connection && now >= slot.retry_at) open(slot);
  }
  std::erase_if(draining_, [&](const auto& connection) {
    if (connection->closed()) count(*connection);
    return connection->closed();
  });
}

void ConnectionSet::break_one(Nanos now) {
  bool first = next_break_ == 0;
  next_break_ = now + std::llround(break_gap_(random_) * kSecond);
  if (first) return;
  Slot& slot = slots_[random_() % slots_.size()];
  if (!slot.connection || !slot.connection->ready()) return;
  slot.connection->close("broken by the plan", true);
  slot.retry_at = now;
  ++done_.connections_broken;
}

void ConnectionSet::count(const Connection& connection) {
  done_.bytes_in += connection.bytes_in();
  done_.bytes_out += connection.bytes_out();
  if (connection.lived()) ++done_.connections_ended;
}

void ConnectionSet::close(WorkerStats& stats) {
  for (Slot& slot : slots_) {
    if (slot.connection) draining_.push_back(std::move(slot.connection));
  }
  for (auto& connection : draining_) {
    connection->close("the run is over");
    count(*connection);
  }
  draining_.clear();
  stats.connections_ended = done_.connections_ended;
  stats.connections_broken = done_.connections_broken;
  stats.bytes_in = done_.bytes_in;
  stats.bytes_out = done_.bytes_out;
}

}  // namespace smt::loadgen
