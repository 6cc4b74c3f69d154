// The cores of this process.
#pragma once

#include <vector>

namespace smt::server {

// Numbers of the cores that the calling thread may run on (taskset, cpuset cgroups), which can be fewer than the
// machine has; at least one. Empty if the kernel does not say.
std::vector<int> usable_cores();

// Keeps the calling thread on one of them. Without effect where the kernel refuses.
void stay_on_core(int core);

}  // namespace smt::server
