#include "signals.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <thread>
#include <utility>

#include "log.h"

namespace smt::server {

std::stop_source watch_signals() {
  signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::stop_source source;
  // Detached: sigwait() cannot be interrupted, and the thread owns all it uses.
  std::thread([set, source]() mutable {
    // A drain that an operator began is no first signal: whoever sends SIGTERM after it wants it to end well.
    for (bool first = true;;) {
      int number = 0;
      if (sigwait(&set, &number) != 0) continue;
      if (!std::exchange(first, false)) {
        log::warn("exit_now", {{"signal", number}});
        _exit(128 + number);
      }
      log::info("signal", {{"signal", number}});
      source.request_stop();
    }
  }).detach();
  return source;
}

}  // namespace smt::server
