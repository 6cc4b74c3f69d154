#include "thread_priority.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <thread>

namespace smt::server {
namespace {

constexpr int kNice = 10;
// The longest that can be asked for: since Linux 6.12 a thread that wakes takes the core from one with longer slices if
// it is its turn. Often it is not, and then it waits for milliseconds (hence IdleTime). Without meaning before.
constexpr uint64_t kSliceNanos = 100'000'000;

constexpr int64_t kRanNanos = 20'000'000;      // so much a thread in idle time gets ...
constexpr int64_t kWaitedNanos = 200'000'000;  // ... in so much, or it leaves it

thread_local IdleTime* current = nullptr;

// The kernel's sched_attr: its header and the C library's do not go together.
struct Attributes {
  uint32_t size = sizeof(Attributes);
  uint32_t sched_policy = 0;
  uint64_t sched_flags = 0;
  int32_t sched_nice = 0;
  uint32_t sched_priority = 0;
  uint64_t sched_runtime = 0;  // of these policies the slice, in nanoseconds
  uint64_t sched_deadline = 0;
  uint64_t sched_period = 0;
};
static_assert(sizeof(Attributes) == 48);

bool set_policy(uint32_t policy, uint64_t slice) {
  Attributes attributes{};
  attributes.sched_policy = policy;
  attributes.sched_nice = kNice;
  attributes.sched_runtime = slice;
  return syscall(SYS_sched_setattr, 0, &attributes, 0U) == 0;  // 0: the calling thread
}

bool enter_idle() { return set_policy(SCHED_IDLE, 0); }
bool leave_idle() { return set_policy(SCHED_BATCH, kSliceNanos); }

}  // namespace

void lower_thread_priority() { leave_idle(); }

std::optional<IdleTime::Times> IdleTime::times() {
  const int file = ::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  if (file < 0) return std::nullopt;
  char text[64];
  const ssize_t got = ::read(file, text, sizeof text - 1);
  ::close(file);
  if (got <= 0) return std::nullopt;
  text[got] = '\0';
  long long ran = 0;
  long long waited = 0;
  if (std::sscanf(text, "%lld %lld", &ran, &waited) != 2) return std::nullopt;
  return Times{.ran = ran, .waited = waited};
}

// Tried on a thread that ends: one that was refused would stay where it is.
bool IdleTime::allowed() {
  static const bool allowed = [] {
    bool returned = false;
    std::thread([&] { returned = leave_idle() && enter_idle() && leave_idle() && times(); }).join();
    return returned;
  }();
  return allowed;
}

IdleTime::IdleTime() {
  if (current != nullptr || sched_getscheduler(0) != SCHED_BATCH || !allowed()) return;
  since_ = times().value_or(Times{});
  active_ = enter_idle();
  if (active_) current = this;
}

IdleTime::~IdleTime() {
  if (active_) leave();
}

void IdleTime::leave() {
  leave_idle();
  active_ = false;
  current = nullptr;
}

void IdleTime::look() {
  if (current == nullptr) return;
  IdleTime& idle = *current;
  const std::optional<Times> now = times();
  if (!now || now->waited - idle.since_.waited > kWaitedNanos) return idle.leave();
  if (now->ran - idle.since_.ran > kRanNanos) idle.since_ = *now;
}

}  // namespace smt::server
