// The messages to send, prepared by smt.serving.loadgen: a file of records
//   uint32 size of the message, uint32 rows that it asks to score, the message's bytes         (little-endian)
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace smt::loadgen {

// A message with gRPC's five-byte prefix before it, as it goes into DATA frames.
struct Payload {
  const char* data;
  uint32_t size;
  uint32_t rows;
};

// Owns the messages; immutable, so safe to share between threads.
class Payloads {
 public:
  // Throws PlanError.
  explicit Payloads(const std::filesystem::path& path);
  Payloads(const Payloads&) = delete;
  Payloads& operator=(const Payloads&) = delete;

  size_t size() const { return payloads_.size(); }
  const Payload& operator[](size_t i) const { return payloads_[i]; }

 private:
  std::string content_;
  std::vector<Payload> payloads_;
};

// All of a file. Throws PlanError.
std::string read_file(const std::filesystem::path& path);

}  // namespace smt::loadgen
