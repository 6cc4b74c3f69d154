// An answer other than OK.
#pragma once

#include <chrono>
#include <string>

#include "metrics.h"

namespace smt::server {

struct Failure {
  Outcome outcome = Outcome::kInternal;
  std::string message;                       // for the client
  std::chrono::milliseconds retry_after{0};  // advice, when the outcome is kResourceExhausted; 0: none
};

}  // namespace smt::server
