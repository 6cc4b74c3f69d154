#include "signals.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <thread>

#include "log.h"

namespace smt::server {

std::stop_token watch_signals() {
  signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::stop_source source;
  std::stop_token token = source.get_token();
  // Detached: sigwait() cannot be interrupted, and the thread owns all it uses.
  std::thread([set, source = std::move(source)]() mutable {
    for (;;) {
      int number = 0;
      if (sigwait(&set, &number) != 0) continue;
      if (source.stop_requested()) {
        log::warn("exit_now", {{"signal", number}});
        _exit(128 + number);
      }
      log::info("signal", {{"signal", number}});
      source.request_stop();
    }
  }).detach();
  return token;
}

}  // namespace smt::server
