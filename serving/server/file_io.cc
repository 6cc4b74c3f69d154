#include "file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "refusal.h"

namespace smt::server {
namespace {

int64_t nanoseconds(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

}  // namespace

FileStamp stamp_of(const std::filesystem::path& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) return {};
  return {.exists = true,
          .device = found.st_dev,
          .inode = found.st_ino,
          .size = found.st_size,
          .modified_ns = nanoseconds(found.st_mtim),
          .changed_ns = nanoseconds(found.st_ctim)};
}

// O_NONBLOCK: opening a named pipe must not hang the watcher; it has no effect on a regular file.
InputFile::InputFile(const std::filesystem::path& path, std::string shown)
    : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)), shown_(std::move(shown)) {
  if (fd_ < 0) {
    if (errno == ENOENT || errno == ENOTDIR) throw Missing(Reason::kManifest, shown_ + ": no such file");
    throw Refused(Reason::kIo, shown_ + ": cannot open: " + std::strerror(errno));
  }
  struct stat found {};
  if (::fstat(fd_, &found) != 0) {
    int error = errno;
    ::close(fd_);
    throw Refused(Reason::kIo, shown_ + ": cannot stat: " + std::strerror(error));
  }
  if (!S_ISREG(found.st_mode)) {
    ::close(fd_);
    throw Refused(Reason::kManifest, shown_ + ": not a regular file");
  }
  size_ = static_cast<uint64_t>(found.st_size);
}

InputFile::~InputFile() { ::close(fd_); }

size_t InputFile::read(std::span<std::byte> out) {
  size_t done = 0;
  while (done < out.size()) {
    ssize_t got = ::read(fd_, out.data() + done, out.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Refused(Reason::kIo, shown_ + ": cannot read: " + std::strerror(errno));
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

std::string read_text(const std::filesystem::path& path, const std::string& shown, uint64_t max_bytes) {
  InputFile file(path, shown);
  if (file.size() > max_bytes) {
    throw Refused(Reason::kManifest,
                  shown + ": " + std::to_string(file.size()) + " bytes; expected at most " + std::to_string(max_bytes));
  }
  std::string text(file.size(), '\0');
  text.resize(file.read(std::as_writable_bytes(std::span(text))));
  return text;
}

void write_atomically(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::path temporary = path;
  temporary += ".tmp-" + std::to_string(::getpid());
  int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) throw std::system_error(errno, std::generic_category(), temporary.string());
  size_t done = 0;
  int error = 0;
  while (done < text.size() && error == 0) {
    ssize_t wrote = ::write(fd, text.data() + done, text.size() - done);
    if (wrote >= 0) {
      done += static_cast<size_t>(wrote);
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (::close(fd) != 0 && error == 0) error = errno;
  if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) {
    ::unlink(temporary.c_str());
    throw std::system_error(error, std::generic_category(), path.string());
  }
}

}  // namespace smt::server
