// A thread that polls connections, and gives each its turn.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "connection.h"
#include "wakeup.h"

namespace smt::server::rpc {

// What a thread calls that polls connections: at its start, and whenever all that had something to say was heard.
struct TurnHooks {
  std::function<void()> begin;
  std::function<void()> end;
};

class IoThread {
 public:
  // `hooks` outlive it. Throws std::system_error.
  explicit IoThread(const TurnHooks& hooks);
  // Ends the thread, then its connections.
  ~IoThread();
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;

  // Called before start(): whenever a listening socket has connections to accept. `fd` stays the caller's.
  void accept_from(int fd, std::function<void()> accept);
  void start();
  // Polls the connection from now on. Any thread.
  void add(std::shared_ptr<Connection> connection);
  // What to do with each connection that there is. Any thread.
  void each(const std::function<void(Connection&)>& act);

 private:
  void poll();
  void sweep();
  void drop(Connection& connection);

  const TurnHooks& hooks_;
  const int epoll_;
  const Wakeup wake_;  // to stop
  std::function<void()> accept_;
  std::mutex mutex_;  // guards connections_; held for no call of a connection
  std::unordered_map<Connection*, std::shared_ptr<Connection>> connections_;
  std::atomic<bool> stopping_{false};  // publishes nothing else
  std::thread thread_;
};

}  // namespace smt::server::rpc
