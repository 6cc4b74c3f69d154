// A thread that the system runs soon after it has something to do.
#pragma once

namespace smt::loadgen {

// Asks for that, for the calling thread; true if granted, which takes the right to do so (root, CAP_SYS_NICE). Where
// the server computes on the generator's cores, arrivals would else wait for the end of its time slices, and that wait
// would pass for the server's latency. The thread gets no more time by it than it needs: it sleeps between events.
bool run_promptly();

}  // namespace smt::loadgen
