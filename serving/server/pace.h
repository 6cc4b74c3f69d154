// How fast files may be read while requests are served.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <stop_token>
#include <utility>

namespace smt::server {

// Of one thread at a time, but for keep(), which any thread may call before the first spend().
class Pace {
 public:
  // Waits, for a short time at most, until there is time for what nobody waits for; ends when the token says so.
  using GiveWay = std::function<void(const std::stop_token&)>;

  // From now on at most so many bytes a second, 0: as fast as it goes; and `give_way` between the parts of a file.
  void keep(int64_t bytes_per_second, GiveWay give_way) {
    rate_ = bytes_per_second;
    give_way_ = std::move(give_way);
  }
  // So many bytes were read: returns when the rate has been kept and way given, or `stop` is requested.
  void spend(size_t bytes, const std::stop_token& stop);

 private:
  int64_t rate_ = 0;
  GiveWay give_way_;
  std::chrono::steady_clock::time_point due_{};
};

// On what terms a file is read.
struct Reading {
  Reading(std::stop_token when = {}, Pace* how_fast = nullptr) : stop(std::move(when)), pace(how_fast) {}

  std::stop_token stop;  // then it is given up
  Pace* pace;            // null: as fast as it goes
};

}  // namespace smt::server
