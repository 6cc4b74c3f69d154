// A work that nobody waits for, where only what it asks for matters.
#pragma once

#include "work.h"

namespace smt::server {

class NoWork final : public Work {
 public:
  void concluded(Drop) noexcept override {}
  bool cancelled() const noexcept override { return false; }
};

}  // namespace smt::server
