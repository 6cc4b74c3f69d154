#include "io_thread.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <span>
#include <system_error>

#include "thread_priority.h"

namespace smt::server::rpc {
namespace {

using Clock = Connection::Clock;

// What a connection is read by in one turn: then it is another one's.
constexpr size_t kTurn = size_t{64} << 10;
constexpr std::chrono::milliseconds kSweep{500};

int checked(int fd, const char* what) {
  if (fd < 0) throw std::system_error(errno, std::generic_category(), what);
  return fd;
}

}  // namespace

IoThread::IoThread(const TurnHooks& hooks)
    : hooks_(hooks), epoll_(checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = this;
  checked(epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_.fd(), &event), "epoll_ctl");
}

IoThread::~IoThread() {
  stopping_.store(true);
  wake_.set();
  if (thread_.joinable()) thread_.join();
  each([](Connection& connection) { connection.end(); });
  connections_.clear();
  ::close(epoll_);
}

void IoThread::accept_from(int fd, std::function<void()> accept) {
  accept_ = std::move(accept);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = nullptr;
  checked(epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

void IoThread::start() {
  thread_ = std::thread([this] { poll(); });
}

void IoThread::add(std::shared_ptr<Connection> connection) {
  Connection* const key = connection.get();
  {
    std::lock_guard lock(mutex_);
    connections_.emplace(key, std::move(connection));
  }
  // Last: from here on the thread may drop it.
  if (!key->watch(epoll_)) drop(*key);
}

void IoThread::each(const std::function<void(Connection&)>& act) {
  std::vector<std::shared_ptr<Connection>> all;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [key, connection] : connections_) all.push_back(connection);
  }
  for (const auto& connection : all) act(*connection);
}

void IoThread::poll() {
  std::array<epoll_event, 64> events;
  std::vector<char> buffer(kTurn);
  std::vector<Connection*> again;  // have bytes that epoll does not know of
  std::vector<Connection*> turn;
  Clock::time_point swept = Clock::now();
  shorten_thread_slices();
  hooks_.begin();
  while (!stopping_.load()) {
    const int wait = again.empty() ? static_cast<int>(kSweep.count()) : 0;
    const int count = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), wait);
    turn.swap(again);
    again.clear();
    for (int i = 0; i < count; ++i) {
      void* const whose = events[static_cast<size_t>(i)].data.ptr;
      if (whose == nullptr) {
        accept_();
      } else if (whose != this) {
        auto* connection = static_cast<Connection*>(whose);
        if (std::find(turn.begin(), turn.end(), connection) == turn.end()) turn.push_back(connection);
      }
    }
    for (Connection* connection : turn) {
      if (connection->on_event(buffer)) again.push_back(connection);
      if (connection->closed()) drop(*connection);
    }
    turn.clear();
    hooks_.end();
    if (Clock::now() - swept >= kSweep) {
      sweep();
      swept = Clock::now();
    }
  }
}

void IoThread::sweep() {
  const Clock::time_point now = Clock::now();
  each([now](Connection& connection) { connection.tick(now); });
}

void IoThread::drop(Connection& connection) {
  std::shared_ptr<Connection> last;  // destroyed without the lock
  std::lock_guard lock(mutex_);
  auto found = connections_.find(&connection);
  if (found == connections_.end()) return;
  last = std::move(found->second);
  connections_.erase(found);
}

}  // namespace smt::server::rpc
