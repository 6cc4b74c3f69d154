// How a thread shares a core with others: those that compute fill all cores.
#pragma once

namespace smt::server {

// For a thread that loads or frees weights, which calls it first: it must not compete with those that serve. A lower
// priority (nice 10: a tenth of a core's time while others want it) and SCHED_BATCH (it
// does not preempt others when it wakes), with slices so long that others preempt it when they wake. Not SCHED_IDLE: a
// thread that hardly runs would hold locks for long.
void lower_thread_priority();

// For a thread that does little whenever it wakes, and others wait for: the shortest slices, so that it gets a core at
// once from a thread that computes (since Linux 6.12; without effect before), and no more of it than without.
void shorten_thread_slices();

}  // namespace smt::server
