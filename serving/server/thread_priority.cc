#include "thread_priority.h"

#include <linux/sched.h>
#include <linux/sched/types.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace smt::server {
namespace {

constexpr int kNice = 10;
// The longest that can be asked for. Since Linux 6.12 a thread that wakes up takes the core at once from one with
// longer slices; else it may have to wait until the slice, some 3 ms, is over. Without meaning before.
constexpr __u64 kSliceNanos = 100'000'000;

}  // namespace

void lower_thread_priority() {
  sched_attr attributes{};
  attributes.size = sizeof attributes;
  attributes.sched_policy = SCHED_BATCH;
  attributes.sched_nice = kNice;
  attributes.sched_runtime = kSliceNanos;
  syscall(SYS_sched_setattr, 0, &attributes, 0U);  // 0: the calling thread
}

}  // namespace smt::server
