#include "promptness.h"

#include <linux/sched/types.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace smt::loadgen {
namespace {

constexpr int kNice = -10;
// Since Linux 6.12 a thread with shorter slices takes its turn at once; what it asks for is ignored before.
constexpr __u64 kSliceNanos = 100'000;

}  // namespace

bool run_promptly() {
  prctl(PR_SET_TIMERSLACK, 1UL);  // by default waits end up to 50 us late
  sched_attr attributes{};
  attributes.size = sizeof attributes;
  attributes.sched_nice = kNice;
  attributes.sched_runtime = kSliceNanos;
  return syscall(SYS_sched_setattr, 0, &attributes, 0U) == 0;
}

}  // namespace smt::loadgen
