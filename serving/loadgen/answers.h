// The answers that calls got, for whoever compares them: a file of records
//   uint32 stream of the plan, uint32 payload of the stream, uint32 size, the message's bytes        (little-endian)
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string_view>

namespace smt::loadgen {

// Not thread-safe: each worker has its own.
class AnswerFile {
 public:
  // Throws std::runtime_error that names the file, as the others do.
  explicit AnswerFile(std::filesystem::path path);

  void write(uint32_t stream, uint32_t payload, std::string_view message);
  // Throws when not everything that was written is in the file.
  void close();

 private:
  void check();

  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace smt::loadgen
