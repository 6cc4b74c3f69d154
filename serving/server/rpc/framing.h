// gRPC over HTTP/2: what its headers and messages look like on the wire
// (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace smt::server::rpc {

enum class Compression { kNone, kGzip, kDeflate };
// What a grpc-encoding header says; none for an encoding that we do not know.
std::optional<Compression> parse_compression(std::string_view text);
inline constexpr std::string_view kAccepted = "identity,deflate,gzip";

// What a grpc-timeout header says ("100m": 100 milliseconds); none if it is not one.
std::optional<std::chrono::nanoseconds> parse_timeout(std::string_view text);

// The text as a grpc-message header: all but printable ASCII as %XX.
std::string percent_encoded(std::string_view text);

// The prefix of a message of `size` bytes, with room for the message behind it.
std::string message_prefix(size_t size);

// The messages of one stream, put together from its bytes. Memory grows with what arrives, not with what is announced.
class MessageReader {
 public:
  // `most`: bytes of a message.
  explicit MessageReader(size_t most) : most_(most) {}

  // Takes bytes up to the end of a message, and returns how many; complete() then says whether it ended there. Throws
  // grpc::Status for a message that is too large, or compressed in a way that was not announced.
  size_t take(std::string_view bytes);
  void set_compression(Compression compression) { compression_ = compression; }

  bool complete() const { return headed_ && received_ == size_; }
  // Nothing of a message has arrived.
  bool empty() const { return !headed_ && prefix_size_ == 0; }
  // Of the message under way, once its prefix has arrived.
  size_t size() const { return size_; }
  // What there is of it; none of a compressed one.
  std::string_view beginning() const;
  bool compressed() const { return compressed_; }
  // The message, which is complete; the next one may begin. Throws grpc::Status if it does not decompress.
  grpc::ByteBuffer finish();

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };

  void head();
  void reserve(size_t size);  // throws std::bad_alloc

  const size_t most_;
  Compression compression_ = Compression::kNone;
  std::array<unsigned char, 5> prefix_{};
  size_t prefix_size_ = 0;
  bool headed_ = false;
  bool compressed_ = false;
  size_t size_ = 0;
  size_t received_ = 0;
  size_t reserved_ = 0;
  std::unique_ptr<char, Free> bytes_;
};

}  // namespace smt::server::rpc
