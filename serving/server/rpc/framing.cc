#include "framing.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace smt::server::rpc {
namespace {

// Reserved at once; of what is larger, this much and then twice as much as there was.
constexpr size_t kReserve = size_t{256} << 10;

grpc::Status too_large(size_t size, size_t most) {
  return {grpc::StatusCode::RESOURCE_EXHAUSTED, "the message is larger than the server takes (" + std::to_string(size) +
                                                    " bytes, limit " + std::to_string(most) +
                                                    "); send fewer candidates, or raise --max-message-bytes"};
}

grpc::ByteBuffer owning(char* bytes, size_t size) {
  grpc::Slice slice(bytes, size, [](void* memory) { std::free(memory); });
  return {&slice, 1};
}

std::string inflated(std::string_view bytes, Compression compression, size_t most) {
  constexpr int kGzipWindow = 15 + 16;
  constexpr int kZlibWindow = 15;
  z_stream stream{};
  if (inflateInit2(&stream, compression == Compression::kGzip ? kGzipWindow : kZlibWindow) != Z_OK) {
    throw std::bad_alloc();
  }
  std::unique_ptr<z_stream, int (*)(z_stream*)> end(&stream, inflateEnd);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  std::string out;
  std::array<char, 16 << 10> part;
  for (int result = Z_OK; result != Z_STREAM_END;) {
    stream.next_out = reinterpret_cast<Bytef*>(part.data());
    stream.avail_out = static_cast<uInt>(part.size());
    result = inflate(&stream, Z_NO_FLUSH);
    if (result != Z_OK && result != Z_STREAM_END) {
      throw grpc::Status(grpc::StatusCode::INTERNAL, "the message does not decompress");
    }
    out.append(part.data(), part.size() - stream.avail_out);
    if (out.size() > most) throw too_large(out.size(), most);
  }
  return out;
}

}  // namespace

std::optional<Compression> parse_compression(std::string_view text) {
  if (text == "identity") return Compression::kNone;
  if (text == "gzip") return Compression::kGzip;
  if (text == "deflate") return Compression::kDeflate;
  return std::nullopt;
}

std::optional<std::chrono::nanoseconds> parse_timeout(std::string_view text) {
  constexpr size_t kMostDigits = 8;
  if (text.size() < 2 || text.size() > kMostDigits + 1) return std::nullopt;
  int64_t value = 0;
  for (char c : text.substr(0, text.size() - 1)) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  switch (text.back()) {
    case 'H':
      return std::chrono::hours(std::min<int64_t>(value, 24 * 365));
    case 'M':
      return std::chrono::minutes(std::min<int64_t>(value, 60 * 24 * 365));
    case 'S':
      return std::chrono::seconds(value);
    case 'm':
      return std::chrono::milliseconds(value);
    case 'u':
      return std::chrono::microseconds(value);
    case 'n':
      return std::chrono::nanoseconds(value);
    default:
      return std::nullopt;
  }
}

std::string percent_encoded(std::string_view text) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::string out;
  out.reserve(text.size());
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (byte >= ' ' && byte <= '~' && byte != '%') {
      out += c;
    } else {
      out += '%';
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    }
  }
  return out;
}

std::string message_prefix(size_t size) {
  std::string out;
  out.reserve(5 + size);
  out += '\0';  // not compressed
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(size >> shift & 0xff);
  return out;
}

size_t MessageReader::take(std::string_view bytes) {
  const size_t all = bytes.size();
  if (!headed_) {
    const size_t part = std::min(bytes.size(), prefix_.size() - prefix_size_);
    std::memcpy(prefix_.data() + prefix_size_, bytes.data(), part);
    prefix_size_ += part;
    bytes.remove_prefix(part);
    if (prefix_size_ < prefix_.size()) return all;
    head();
  }
  const size_t part = std::min(bytes.size(), size_ - received_);
  if (part > 0) {
    reserve(received_ + part);
    std::memcpy(bytes_.get() + received_, bytes.data(), part);
    received_ += part;
    bytes.remove_prefix(part);
  }
  return all - bytes.size();
}

void MessageReader::head() {
  headed_ = true;
  compressed_ = prefix_[0] != 0;
  size_ = 0;
  for (size_t i = 1; i < prefix_.size(); ++i) size_ = size_ << 8 | prefix_[i];
  if (prefix_[0] > 1 || (compressed_ && compression_ == Compression::kNone)) {
    throw grpc::Status(grpc::StatusCode::INTERNAL, "the message is compressed, but grpc-encoding does not say how");
  }
  if (size_ > most_) throw too_large(size_, most_);
}

void MessageReader::reserve(size_t size) {
  if (size <= reserved_) return;
  const size_t wanted = std::min(size_, std::max({size, kReserve, 2 * reserved_}));
  auto* grown = static_cast<char*>(std::realloc(bytes_.get(), wanted));
  if (grown == nullptr) throw std::bad_alloc();
  (void)bytes_.release();
  bytes_.reset(grown);
  reserved_ = wanted;
}

std::string_view MessageReader::beginning() const {
  if (compressed_) return {};
  return {bytes_.get(), received_};
}

grpc::ByteBuffer MessageReader::finish() {
  const size_t size = size_;
  const bool compressed = compressed_;
  std::unique_ptr<char, Free> bytes = std::move(bytes_);
  headed_ = compressed_ = false;
  prefix_size_ = size_ = received_ = reserved_ = 0;
  if (compressed) {
    const std::string text = inflated({bytes.get(), size}, compression_, most_);
    grpc::Slice slice(text);
    return {&slice, 1};
  }
  if (size == 0) {
    grpc::Slice empty;
    return {&empty, 1};
  }
  return owning(bytes.release(), size);
}

}  // namespace smt::server::rpc
