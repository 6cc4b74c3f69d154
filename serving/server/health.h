// grpc.health.v1.Health of the data port.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "rpc/stream.h"

namespace smt::server {

// Thread-safe.
class Health {
 public:
  static constexpr const char* kService = "grpc.health.v1.Health";

  // Its methods, which refer to this object.
  void add_to(rpc::Methods& methods);

  // The status of a service from now on: whoever watches it hears of it.
  void set(const std::string& service, bool serving);
  // Every service NOT_SERVING for good, whatever is set later.
  void shut_down();

 private:
  class Watch;
  enum class State { kUnknown, kServing, kNotServing };

  State state(const std::string& service) const;  // requires mutex_

  mutable std::mutex mutex_;  // guards all below; held for no call of a watch
  std::map<std::string, State> states_;
  std::map<std::string, std::set<std::shared_ptr<Watch>>> watches_;
  bool down_ = false;
};

}  // namespace smt::server
