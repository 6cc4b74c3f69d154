// Small file helpers. Every failure is a Refused(kIo) that names the path and the system's error text.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace smt::server {

// What changes when a file is replaced or rewritten. A missing file has a stamp too (`exists` false).
struct FileStamp {
  bool exists = false;
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t size = 0;
  int64_t modified_ns = 0;
  int64_t changed_ns = 0;

  bool operator==(const FileStamp&) const = default;
};
FileStamp stamp_of(const std::filesystem::path& path);

// The files that decide an outcome, each as it was before it was read: if none changed since, neither would the
// outcome.
class TouchedFiles {
 public:
  // Call before reading `path`.
  void add(std::filesystem::path path) {
    FileStamp stamp = stamp_of(path);
    files_.emplace_back(std::move(path), stamp);
  }
  bool changed() const {
    for (const auto& [path, stamp] : files_) {
      if (stamp_of(path) != stamp) return true;
    }
    return false;
  }

 private:
  std::vector<std::pair<std::filesystem::path, FileStamp>> files_;
};

// A regular file open for reading. Movable, not thread-safe.
class InputFile {
 public:
  // Throws Missing (kManifest) when there is no such file, Refused(kManifest) when it is not a regular file.
  // `shown` is how messages name the file.
  InputFile(const std::filesystem::path& path, std::string shown);
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  ~InputFile();

  uint64_t size() const { return size_; }
  const std::string& shown() const { return shown_; }
  // Fills `out` up to the end of the file; returns the number of bytes read.
  size_t read(std::span<std::byte> out);

 private:
  int fd_;
  uint64_t size_ = 0;
  std::string shown_;
};

// Whole file; longer than max_bytes is Refused(kManifest).
std::string read_text(const std::filesystem::path& path, const std::string& shown, uint64_t max_bytes);

// Writes `text` to a temporary file beside `path`, then renames it over `path`. Throws std::system_error.
void write_atomically(const std::filesystem::path& path, const std::string& text);

}  // namespace smt::server
