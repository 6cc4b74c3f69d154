#include "registry_changes.h"

#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace smt::server {
namespace {

// A pointer is replaced by a rename; what else publishers do in the folder (locks, versions, events) is none of it.
constexpr uint32_t kAsked = IN_MOVED_TO | IN_MOVE_SELF | IN_ONLYDIR;
constexpr size_t kRead = 16 << 10;

}  // namespace

RegistryChanges::RegistryChanges() : inotify_(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {}

RegistryChanges::~RegistryChanges() {
  if (inotify_ >= 0) close(inotify_);
}

void RegistryChanges::watch(const std::string& scenario, const std::filesystem::path& folder) {
  if (inotify_ < 0 || watched_.contains(scenario)) return;
  const int watch = inotify_add_watch(inotify_, folder.c_str(), kAsked);
  if (watch < 0) return;  // gone again, or no watch left: the next look tries again
  if (auto [at, added] = scenarios_.try_emplace(watch, scenario); !added) {
    watched_.erase(std::exchange(at->second, scenario));  // one folder under two names, through a link
  }
  watched_.insert(scenario);
}

std::set<std::string> RegistryChanges::take() {
  std::set<std::string> changed;
  if (inotify_ < 0) return changed;
  alignas(inotify_event) std::array<char, kRead> buffer;
  for (ssize_t bytes = 0; (bytes = read(inotify_, buffer.data(), buffer.size())) > 0;) {
    for (const char* next = buffer.data(); next < buffer.data() + bytes;) {
      inotify_event event{};
      std::memcpy(&event, next, sizeof event);
      next += sizeof event + event.len;
      auto at = scenarios_.find(event.wd);
      if (at == scenarios_.end()) continue;  // of a watch that ended, or the queue overflowed
      changed.insert(at->second);
      if ((event.mask & IN_MOVE_SELF) != 0) inotify_rm_watch(inotify_, event.wd);  // says IN_IGNORED
      if ((event.mask & IN_IGNORED) != 0) {
        watched_.erase(at->second);
        scenarios_.erase(at);
      }
    }
  }
  return changed;
}

void RegistryChanges::wait(int other, std::chrono::steady_clock::time_point until) const {
  using std::chrono::milliseconds;
  std::array<pollfd, 2> fds{
      {{.fd = other, .events = POLLIN, .revents = 0}, {.fd = inotify_, .events = POLLIN, .revents = 0}}};
  const auto left = std::chrono::ceil<milliseconds>(until - std::chrono::steady_clock::now());
  // Of poll's errors only an interruption can happen; then the caller looks once more often.
  poll(fds.data(), fds.size(), static_cast<int>(std::clamp<int64_t>(left.count(), 0, 3'600'000)));
}

}  // namespace smt::server
