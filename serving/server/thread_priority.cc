#include "thread_priority.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

namespace smt::server {

void lower_thread_priority() {
  constexpr int kNiceness = 10;
  const sched_param none{};
  sched_setscheduler(0, SCHED_BATCH, &none);  // 0: the calling thread
  // Linux applies a priority to one thread when given its thread id.
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNiceness);
}

}  // namespace smt::server
