#include "reaper.h"

#include <utility>

#include "thread_priority.h"

namespace smt::server {

// Made when the snapshot is adopted, so that to hand it over allocates nothing.
struct Reaper::Grave {
  std::shared_ptr<const LoadedSnapshot> snapshot;
  std::function<void()> freed;
  Grave* next = nullptr;
};

struct Reaper::Yard {
  std::mutex mutex;  // guards all below; not held while a snapshot is freed
  std::condition_variable changed;
  Grave* first = nullptr;
  bool busy = false;
  bool closed = false;

  void bury(Grave* grave) {
    {
      std::lock_guard lock(mutex);
      if (!closed) {
        grave->next = std::exchange(first, grave);
        grave = nullptr;
      }
    }
    if (grave == nullptr) return changed.notify_all();
    delete grave;
  }

  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [this] { return first != nullptr || closed; });
      if (first == nullptr) return;
      Grave* grave = std::exchange(first, nullptr);
      busy = true;
      lock.unlock();
      while (grave != nullptr) {
        std::unique_ptr<Grave> one(std::exchange(grave, grave->next));
        one->snapshot.reset();
        if (one->freed) one->freed();
      }
      lock.lock();
      busy = false;
      changed.notify_all();
    }
  }
};

Reaper::Reaper() : yard_(std::make_shared<Yard>()) {
  thread_ = std::thread([yard = yard_] {
    lower_thread_priority();
    yard->run();
  });
}

Reaper::~Reaper() {
  {
    std::lock_guard lock(yard_->mutex);
    yard_->closed = true;
  }
  yard_->changed.notify_all();
  thread_.join();
}

std::shared_ptr<const LoadedSnapshot> Reaper::adopt(std::shared_ptr<const LoadedSnapshot> snapshot,
                                                    std::function<void()> freed) {
  const LoadedSnapshot* raw = snapshot.get();
  auto* grave = new Grave{.snapshot = std::move(snapshot), .freed = std::move(freed)};
  // Buries it also when the reference count cannot be made.
  return {raw, [yard = yard_, grave](const LoadedSnapshot*) { yard->bury(grave); }};
}

bool Reaper::wait_idle(std::chrono::milliseconds longest) {
  std::unique_lock lock(yard_->mutex);
  return yard_->changed.wait_for(lock, longest, [this] { return yard_->first == nullptr && !yard_->busy; });
}

}  // namespace smt::server
