#include "fake_server.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iterator>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace smt::loadgen {
namespace {

nghttp2_nv header(const char* name, const char* value) {
  auto bytes = [](const char* text) { return reinterpret_cast<uint8_t*>(const_cast<char*>(text)); };
  return {bytes(name), bytes(value), std::strlen(name), std::strlen(value), NGHTTP2_NV_FLAG_NONE};
}

int64_t microseconds(const std::string& timeout) {
  const std::map<char, int64_t> units{{'S', 1'000'000}, {'m', 1'000}, {'u', 1}};
  return std::stoll(timeout) * units.at(timeout.back());
}

}  // namespace

struct FakeStream {
  std::string path;
  int64_t timeout_us = -1;  // -1: none
  std::string body;         // of the answer
  size_t sent = 0;
  size_t step = SIZE_MAX;        // most bytes of a DATA frame
  const char* status = nullptr;  // in trailers; null: none
};

struct FakeConnection {
  FakeServer& server;
  int fd;
  bool broken = false;
  nghttp2_session* session = nullptr;
  std::map<int32_t, FakeStream> streams;

  static FakeConnection& self(void* user) { return *static_cast<FakeConnection*>(user); }

  FakeConnection(FakeServer& of, int socket) : server(of), fd(socket) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
                      const uint8_t* value, size_t value_size, uint8_t, void* user) {
          FakeStream& stream = self(user).streams[frame->hd.stream_id];
          const std::string text(reinterpret_cast<const char*>(value), value_size);
          const std::string_view key(reinterpret_cast<const char*>(name), name_size);
          if (key == ":path") stream.path = text;
          if (key == "grpc-timeout") stream.timeout_us = microseconds(text);
          return 0;
        });
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        callbacks, [](nghttp2_session*, uint8_t, int32_t, const uint8_t*, size_t size, void* user) {
          self(user).server.message_bytes_ += size;
          return 0;
        });
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks,
                                                         [](nghttp2_session*, const nghttp2_frame* frame, void* user) {
                                                           FakeConnection& connection = self(user);
                                                           bool ends = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
                                                           if (frame->hd.type == NGHTTP2_HEADERS && !ends)
                                                             connection.headers_came(frame->hd.stream_id);
                                                           if (frame->hd.type == NGHTTP2_RST_STREAM)
                                                             ++connection.server.resets_;
                                                           if (frame->hd.type == NGHTTP2_DATA && ends)
                                                             connection.request_came(frame->hd.stream_id);
                                                           return 0;
                                                         });
    nghttp2_session_callbacks_set_on_frame_send_callback(
        callbacks, [](nghttp2_session* of, const nghttp2_frame* frame, void* user) {
          if (frame->hd.type == NGHTTP2_HEADERS && self(user).streams[frame->hd.stream_id].path == "/early-end") {
            nghttp2_submit_rst_stream(of, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
          }
          return 0;
        });
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks,
                                                           [](nghttp2_session*, int32_t id, uint32_t, void* user) {
                                                             self(user).streams.erase(id);
                                                             return 0;
                                                           });
    nghttp2_session_server_new(&session, callbacks, this);
    nghttp2_session_callbacks_del(callbacks);
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, server.most_streams_}};
    nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings, std::size(settings));
  }
  FakeConnection(const FakeConnection&) = delete;
  FakeConnection& operator=(const FakeConnection&) = delete;
  ~FakeConnection() {
    nghttp2_session_del(session);
    ::close(fd);
  }

  void answer(int32_t id, const std::string& body, const char* status, size_t step = SIZE_MAX) {
    FakeStream& stream = streams[id];
    stream.body = body;
    stream.status = status;
    stream.step = step;
    nghttp2_data_provider provider{{.ptr = &stream},
                                   [](nghttp2_session* to, int32_t stream_id, uint8_t* out, size_t most,
                                      uint32_t* flags, nghttp2_data_source* source, void*) -> ssize_t {
                                     auto& from = *static_cast<FakeStream*>(source->ptr);
                                     size_t size = std::min({most, from.step, from.body.size() - from.sent});
                                     std::memcpy(out, from.body.data() + from.sent, size);
                                     from.sent += size;
                                     if (from.sent == from.body.size()) {
                                       *flags |= NGHTTP2_DATA_FLAG_EOF;
                                       if (from.status != nullptr) {
                                         *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
                                         nghttp2_nv trailers[] = {header("grpc-status", from.status)};
                                         nghttp2_submit_trailer(to, stream_id, trailers, 1);
                                       }
                                     }
                                     return static_cast<ssize_t>(size);
                                   }};
    nghttp2_nv headers[] = {header(":status", "200"), header("content-type", "application/grpc")};
    nghttp2_submit_response(session, id, headers, 2, &provider);
  }

  void headers_alone(int32_t id, const char* http, const char* status) {
    nghttp2_nv headers[] = {header(":status", http), header("content-type", "application/grpc"),
                            header("grpc-status", status)};
    nghttp2_submit_response(session, id, headers, 3, nullptr);
  }

  void headers_came(int32_t id) {
    const std::string& path = streams[id].path;
    if (streams[id].timeout_us >= 0) server.timeouts_us_[path].push_back(streams[id].timeout_us);
    if (path == "/early" || path == "/early-end") headers_alone(id, "200", "8");
    if (path == "/refuse" && !std::exchange(server.refused_, true)) {
      nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_REFUSED_STREAM);
    }
    if (path == "/goaway" && !std::exchange(server.said_goodbye_, true)) {
      nghttp2_submit_goaway(session, NGHTTP2_FLAG_NONE, std::max(0, id - 2), NGHTTP2_NO_ERROR, nullptr, 0);
    }
  }

  void request_came(int32_t id) {
    auto found = streams.find(id);
    if (found == streams.end()) return;
    const std::string path = found->second.path;
    const std::string message("\0\0\0\0\4abcd", 9);
    ++server.requests_[path];
    if (path == "/ok" || path == "/refuse" || path == "/goaway") answer(id, message, "0");
    if (path == "/late") {
      std::this_thread::sleep_for(std::chrono::microseconds(2 * found->second.timeout_us));
      answer(id, message, "0");
    }
    if (path == "/split") answer(id, message, "0", 1);
    if (path == "/status") headers_alone(id, "200", "5");
    if (path == "/empty") headers_alone(id, "200", "0");
    if (path == "/short") answer(id, message.substr(0, 7), "0");
    if (path == "/no-status") answer(id, message, nullptr);
    if (path == "/http") headers_alone(id, "503", "0");
    if (path == "/reset") nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_INTERNAL_ERROR);
    if (path == "/hang-up") broken = true;
  }

  // Whether the connection lives on.
  bool read() {
    uint8_t buffer[16384];
    ssize_t size = ::read(fd, buffer, sizeof buffer);
    return size > 0 && nghttp2_session_mem_recv(session, buffer, static_cast<size_t>(size)) >= 0 && write();
  }
  // What there is to say goes out at once, as from our server: or a client on an idle core is awake between two frames.
  bool write() {
    std::string out;
    const uint8_t* data = nullptr;
    for (ssize_t size; (size = nghttp2_session_mem_send(session, &data)) > 0;) {
      out.append(reinterpret_cast<const char*>(data), static_cast<size_t>(size));
    }
    for (size_t at = 0; at < out.size();) {
      ssize_t written = ::send(fd, out.data() + at, out.size() - at, MSG_NOSIGNAL);
      if (written <= 0) return false;
      at += static_cast<size_t>(written);
    }
    return !broken && nghttp2_session_want_read(session) != 0;
  }
};

FakeServer::FakeServer(uint32_t most_streams) : most_streams_(most_streams) {
  listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  bool listens = ::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0 && ::listen(listener_, 16) == 0 &&
                 ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  if (!listens) throw std::runtime_error(std::string("fake server: ") + std::strerror(errno));
  port_ = ntohs(address.sin_port);
  wake_ = ::eventfd(0, 0);
  thread_ = std::thread([this] { serve(); });
}

FakeServer::~FakeServer() { stop(); }

void FakeServer::stop() {
  if (!thread_.joinable()) return;
  uint64_t one = 1;
  while (::write(wake_, &one, sizeof one) < 0) {
  }
  thread_.join();
  ::close(listener_);
  ::close(wake_);
}

void FakeServer::serve() {
  std::vector<std::unique_ptr<FakeConnection>> connections;
  for (;;) {
    std::vector<pollfd> watched{{wake_, POLLIN, 0}, {listener_, POLLIN, 0}};
    for (auto& connection : connections) watched.push_back({connection->fd, POLLIN, 0});
    ::poll(watched.data(), watched.size(), -1);
    if (watched[0].revents != 0) return;
    std::vector<std::unique_ptr<FakeConnection>> left;
    for (size_t i = 0; i < connections.size(); ++i) {
      if (watched[i + 2].revents == 0 || connections[i]->read()) left.push_back(std::move(connections[i]));
    }
    connections = std::move(left);
    if (watched[1].revents != 0) {
      connections.push_back(std::make_unique<FakeConnection>(*this, ::accept(listener_, nullptr, nullptr)));
      connections.back()->write();
    }
  }
}

}  // namespace smt::loadgen
