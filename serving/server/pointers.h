// What a scenario's `current` and its labels hold, read again only when one of the files has changed: a look at a
// scenario at rest is three stat(2) calls, so hundreds of scenarios can be looked at twenty times a second.
#pragma once

#include <array>
#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "file_io.h"
#include "refusal.h"
#include "registry.h"

namespace smt::server {

// A file's content, or why there is none: neither, when there is no file.
template <typename T>
struct Pointer {
  std::optional<T> value;
  std::optional<Refused> error;
};

struct Pointers {
  Pointer<std::string> current;
  Pointer<Label> canary;
  Pointer<Label> shadow;
};

// Not thread-safe.
class PointerReader {
 public:
  // `young`: how old a file has to be before its stamps are trusted. Longer than the ticks of file systems' clocks, and
  // than the clocks of file servers are off.
  explicit PointerReader(const Registry& registry, std::chrono::seconds young = std::chrono::seconds(3))
      : registry_(registry), young_(young) {}

  // Valid until the next call for the same scenario.
  const Pointers& read(const std::string& scenario);

 private:
  using Stamps = std::array<FileStamp, 3>;
  struct Seen {
    Stamps stamps;
    // Whether the stamps tell the next change apart for sure. Not while a file is young: it may change again within the
    // same tick of the file system's clock and take over the same inode.
    bool settled = false;
    Pointers pointers;
  };
  Stamps stamps(const std::string& scenario) const;
  bool is_young(const FileStamp& stamp) const;

  const Registry& registry_;
  const std::chrono::seconds young_;
  std::map<std::string, Seen> seen_;
};

}  // namespace smt::server
