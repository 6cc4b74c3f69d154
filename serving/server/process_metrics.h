// CPU time, memory and files of this process, under the names that all Prometheus clients give them.
#pragma once

#include <prometheus/collectable.h>

#include <memory>

namespace smt::server {

// Reads /proc at each scrape. Thread-safe.
std::shared_ptr<prometheus::Collectable> process_metrics();

}  // namespace smt::server
