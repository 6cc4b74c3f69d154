// What a thread that loads or frees weights calls first: it must not compete with the threads that serve.
#pragma once

namespace smt::server {

// For the calling thread: a lower priority (nice 10: a tenth of a core's time while others want it) and SCHED_BATCH (it
// does not preempt others when it wakes), with slices so long that others preempt it when they wake. Not SCHED_IDLE: a
// thread that hardly runs would hold locks for long.
void lower_thread_priority();

}  // namespace smt::server
