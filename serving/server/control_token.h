// The token that a caller of the control service has to know.
#pragma once

#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>

namespace smt::server {

// Thread-safe. The file is read at every call, so that a new token counts at once, and taking the file away shuts
// everybody out: a file that cannot be used matches nothing, and the log says why.
class ControlToken {
 public:
  // Throws std::runtime_error that names flag and file: one that cannot be read, that users other than its owner and
  // group may read or write, or that does not hold one line of 1..4096 printable characters without spaces.
  explicit ControlToken(std::filesystem::path path);

  // Whether `authorization` is "Bearer " and the token. The time it takes does not depend on how much of it is right.
  bool matches(std::string_view authorization) const;

 private:
  std::string read() const;

  const std::filesystem::path path_;
  mutable std::mutex mutex_;       // guards complaint_
  mutable std::string complaint_;  // the last one logged
};

}  // namespace smt::server
