// Frees snapshots on a thread of its own, whoever drops the last reference: to give a table back to the system takes
// milliseconds for each gigabyte, which no request should wait for.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "snapshot.h"

namespace smt::server {

// Thread-safe.
class Reaper {
 public:
  Reaper();
  // Frees what was handed over and waits for that. Snapshots whose last reference is dropped later are freed by
  // whoever drops it, and nobody is told.
  ~Reaper();
  Reaper(const Reaper&) = delete;
  Reaper& operator=(const Reaper&) = delete;

  // The same snapshot, under a reference count whose end hands it to the reaper's thread. `freed` is called there, when
  // the memory has been given back. `snapshot` must be its only reference.
  std::shared_ptr<const LoadedSnapshot> adopt(std::shared_ptr<const LoadedSnapshot> snapshot,
                                              std::function<void()> freed);

  // Waits until everything handed over so far is freed; false when that took longer.
  bool wait_idle(std::chrono::milliseconds longest);

 private:
  struct Grave;
  struct Yard;
  // Shared with the snapshots that are alive, which may outlive the reaper.
  std::shared_ptr<Yard> yard_;
  std::thread thread_;
};

}  // namespace smt::server
