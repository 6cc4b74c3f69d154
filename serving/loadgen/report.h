// A run as JSON.
#pragma once

#include <string>

#include "plan.h"
#include "stats.h"

namespace smt::loadgen {

struct Window {
  double seconds;      // that were measured
  double cpu_seconds;  // of this process, meanwhile
};

// One object: see docs of smt.serving.loadgen.result, which reads it.
std::string report(const Plan& plan, const WorkerStats& stats, const Window& window);

// One line about the last interval, `at` seconds after the run began.
std::string progress_line(double at, const Interval& interval);

}  // namespace smt::loadgen
