#include "thread_priority.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <thread>

namespace smt::server {
namespace {

// On a thread of its own, which is never raised again.
template <typename Body>
void on_a_thread(Body&& body) {
  std::thread(std::forward<Body>(body)).join();
}

// Whether this system lets a thread come back from idle time.
bool may_return() {
  bool entered = false;
  on_a_thread([&] {
    lower_thread_priority();
    const IdleTime idle;
    entered = sched_getscheduler(0) == SCHED_IDLE;
  });
  return entered;
}

TEST(IdleTime, LastsAsLongAsTheObject) {
  if (!may_return()) GTEST_SKIP() << "needs CAP_SYS_NICE or RLIMIT_NICE of 10, and /proc/thread-self/schedstat";
  on_a_thread([] {
    lower_thread_priority();
    {
      const IdleTime idle;
      {
        const IdleTime inner;
        EXPECT_EQ(sched_getscheduler(0), SCHED_IDLE);
      }
      IdleTime::look();
      EXPECT_EQ(sched_getscheduler(0), SCHED_IDLE) << "of the outer one";
    }
    EXPECT_EQ(sched_getscheduler(0), SCHED_BATCH);
  });
}

TEST(IdleTime, LeavesOtherThreadsAlone) {
  on_a_thread([] {
    const int before = sched_getscheduler(0);
    const IdleTime idle;
    EXPECT_EQ(sched_getscheduler(0), before);
    IdleTime::look();
    EXPECT_EQ(sched_getscheduler(0), before);
  });
}

// Beside a thread that never lets go of the only core, it ends early; the test would not end otherwise.
TEST(IdleTime, EndsWhereThereIsNone) {
  if (!may_return()) GTEST_SKIP() << "needs CAP_SYS_NICE or RLIMIT_NICE of 10, and /proc/thread-self/schedstat";
  std::atomic<bool> left{false};
  on_a_thread([&] {
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(sched_getcpu(), &here);
    ASSERT_EQ(sched_setaffinity(0, sizeof here, &here), 0);  // threads made from here on stay here too
    std::thread busy([&] {
      while (!left) {
      }
    });
    std::thread loading([&] {
      lower_thread_priority();
      const IdleTime idle;
      while (sched_getscheduler(0) == SCHED_IDLE) IdleTime::look();
      left = true;
    });
    loading.join();
    busy.join();
  });
  EXPECT_TRUE(left);
}

}  // namespace
}  // namespace smt::server
