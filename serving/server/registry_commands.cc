#include "registry_commands.h"

#include <algorithm>
#include <utility>

namespace smt::server {
namespace {

CommandOutcome draining() {
  return {.code = CommandCode::kUnavailable, .message = "the server is draining; ask the one that takes its place"};
}

}  // namespace

void RegistryCommands::submit(Command command) {
  CommandOutcome refusal;
  {
    std::lock_guard lock(mutex_);
    if (!closed_ && waiting_.size() < kMostWaiting) {
      if (command.verb == CommandVerb::kRollback) urgent_.request_stop();
      waiting_.push_back(std::move(command));
      arrived_.set();
      return;
    }
    refusal = closed_ ? draining()
                      : CommandOutcome{.code = CommandCode::kResourceExhausted,
                                       .message = std::to_string(kMostWaiting) +
                                                  " commands are waiting for the registry's thread; retry later"};
  }
  command.done(refusal);
}

std::optional<Command> RegistryCommands::take() {
  std::lock_guard lock(mutex_);
  if (waiting_.empty()) return std::nullopt;
  Command command = std::move(waiting_.front());
  waiting_.pop_front();
  if (waiting_.empty() && !closed_) arrived_.clear();
  auto urgent = [](const Command& each) { return each.verb == CommandVerb::kRollback; };
  if (urgent_.stop_requested() && std::ranges::none_of(waiting_, urgent)) urgent_ = {};
  return command;
}

std::stop_token RegistryCommands::urgent() const {
  std::lock_guard lock(mutex_);
  return urgent_.get_token();
}

void RegistryCommands::close() {
  std::deque<Command> left;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    arrived_.set();
    left.swap(waiting_);
  }
  for (const Command& command : left) command.done(draining());
}

}  // namespace smt::server
