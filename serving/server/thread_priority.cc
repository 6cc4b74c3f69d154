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
constexpr __u64 kLongSlice = 100'000'000;  // ns
// The shortest one.
constexpr __u64 kShortSlice = 100'000;

// The calling thread's, changed as change() does. What cannot be had (a system that is older, no permission) stays.
template <typename Change>
void set(Change change) {
  sched_attr attributes{};
  attributes.size = sizeof attributes;
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0U) != 0) return;
  change(attributes);
  syscall(SYS_sched_setattr, 0, &attributes, 0U);
}

}  // namespace

void lower_thread_priority() {
  set([](sched_attr& attributes) {
    attributes.sched_policy = SCHED_BATCH;
    attributes.sched_nice = kNice;
    attributes.sched_runtime = kLongSlice;
  });
}

void shorten_thread_slices() {
  set([](sched_attr& attributes) { attributes.sched_runtime = kShortSlice; });
}

}  // namespace smt::server
