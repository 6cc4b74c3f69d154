// What operators ask of the registry's scenarios: load, unload, roll back, unpin. Asked on any thread (of gRPC, say),
// done on the thread that scans the registry, so that no serving thread ever loads, packs or frees weights.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>

#include "wakeup.h"

namespace smt::server {

enum class CommandVerb {
  // Without a version: follows the registry from now on, as at first: any pin ends, and what `current` names is loaded
  // now, also if it was refused before. With one: serves that version and pins it.
  kLoad,
  // Serves nothing: new requests are UNAVAILABLE, requests under way are answered, then the weights are freed. The
  // scenario stays so, whatever is published, until kLoad.
  kUnload,
  // Serves the version that was served before the current one, and pins it. Until another version is loaded, a second
  // one changes nothing.
  kRollback,
  // Ends the pin: as kLoad without a version, except that an unloaded scenario stays so.
  kUnpin,
};

enum class CommandCode {
  kOk,
  kInvalidArgument,     // a name that no scenario or version can have
  kNotFound,            // the registry has no such scenario, or not this version of it
  kFailedPrecondition,  // the version was refused, or there is none to go back to
  kResourceExhausted,   // too many commands are waiting
  kCancelled,           // `abandoned` was requested before it was done, and nothing was changed
  kUnavailable,         // the server is draining
};

struct CommandOutcome {
  CommandCode code = CommandCode::kOk;
  std::string message;  // why not; empty when kOk
};

// Pinned: the version stays, whatever `current` in the registry comes to name. Every command may be repeated: asking
// for what is so already changes nothing and is kOk. Commands are done one at a time, in the order of their arrival.
struct Command {
  CommandVerb verb = CommandVerb::kLoad;
  std::string scenario;
  std::string version;        // kLoad only; empty: what `current` names
  std::stop_token abandoned;  // requested when nobody waits any more (the call's deadline passed): it is given up
  // Called exactly once, with no lock held: on the scanning thread when it is done, or on the thread of submit() or
  // close() when it never will be. Must not block nor throw.
  std::function<void(const CommandOutcome&)> done;
};

// The commands that wait for the scanning thread. Thread-safe.
class RegistryCommands {
 public:
  static constexpr size_t kMostWaiting = 256;

  // Never waits for the command. After close(), or when too many wait, calls done() at once.
  void submit(Command command);

  // For the scanning thread.
  std::optional<Command> take();
  // A file descriptor that can be read while a command waits, and after close().
  int arrived() const { return arrived_.fd(); }

  // Requested as soon as a kRollback waits: what a load that nobody waits for gives way to. Take a new one for each
  // load.
  std::stop_token urgent() const;

  // Answers all that wait, and all that come later, with kUnavailable. Idempotent.
  void close();

 private:
  mutable std::mutex mutex_;  // guards all below; never held while done() is called
  Wakeup arrived_;            // set while `waiting_` is not empty, and when closed
  std::deque<Command> waiting_;
  std::stop_source urgent_;  // replaced when no kRollback waits any more
  bool closed_ = false;
};

}  // namespace smt::server
