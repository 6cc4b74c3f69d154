#include "shadow_route.h"

#include <random>

namespace smt::server {

std::vector<TaskPair> common_tasks(const LoadedSnapshot& stable, const LoadedSnapshot& shadow) {
  std::vector<TaskPair> pairs;
  for (const Task& mine : stable.tasks) {
    for (const Task& other : shadow.tasks) {
      if (mine.name == other.name) pairs.push_back({mine.name, mine.head, other.head});
    }
  }
  return pairs;
}

// By chance and not by the request's key: whoever shares a key, a shadow sees some requests of all.
bool sampled(double percent) {
  if (percent >= 100) return true;
  thread_local std::minstd_rand random{std::random_device{}()};
  return std::uniform_real_distribution<double>(0, 100)(random) < percent;
}

}  // namespace smt::server
