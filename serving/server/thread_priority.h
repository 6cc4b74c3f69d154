// What a thread that loads or frees weights does first: it must not compete with the threads that serve.
#pragma once

#include <cstdint>
#include <optional>

namespace smt::server {

// For the calling thread: a lower priority (nice 10: a tenth of a core's time while others want it) and SCHED_BATCH (it
// does not preempt others when it wakes), with slices so long that others preempt it when they wake. Not SCHED_IDLE: a
// thread that hardly runs would hold locks for long.
void lower_thread_priority();

// While one lives, the calling thread, whose priority was lowered, runs in time that nobody else wants (SCHED_IDLE): a
// serving thread that wakes takes the core from it at once, and is put on its core rather than behind another serving
// thread. For long computations that hold no lock that others want; one at a time.
//
// Does nothing where the thread could not come back (that takes CAP_SYS_NICE, or RLIMIT_NICE of 10), where the kernel
// does not say how long a thread waits for a core, and for threads whose priority was not lowered.
class IdleTime {
 public:
  IdleTime();
  ~IdleTime();
  IdleTime(const IdleTime&) = delete;
  IdleTime& operator=(const IdleTime&) = delete;

  // To be called all the time by the thread that has one, if any: ends it early when there is no idle time, so that
  // the thread gets a tenth of a core at least.
  static void look();

 private:
  // Of a thread, in nanoseconds.
  struct Times {
    int64_t ran;
    int64_t waited;  // for a core
  };
  static std::optional<Times> times();
  static bool allowed();
  void leave();

  bool active_ = false;
  Times since_{};
};

}  // namespace smt::server
