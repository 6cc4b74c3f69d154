#include "rpc/connection.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <memory>
#include <string>

#include "serving/server/byte_buffer.h"
#include "targets.h"

namespace smt::fuzz {
namespace {

using namespace server::rpc;

int alive = 0;  // handlers

// Of both kinds of methods; what begins with 'r' is refused by its first bytes, and with 'n' never answered.
class Echo final : public Handler {
 public:
  Echo(std::shared_ptr<Stream> stream, bool streaming) : stream_(std::move(stream)), streaming_(streaming) { ++alive; }
  ~Echo() override { --alive; }
  bool begun(std::string_view beginning) override {
    require(messages_ == 0, "the beginning comes before the message");
    if (!beginning.starts_with('r')) return false;
    stream_->finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "full"});
    return true;
  }
  void message(grpc::ByteBuffer bytes) override {
    require(!over_ && (streaming_ || messages_ == 0), "messages come as they are asked for");
    ++messages_;
    const std::string text = server::text_of(bytes);
    if (text.starts_with('n')) return;
    if (streaming_) return stream_->write(server::framed(text));
    stream_->reply(server::framed(text));
  }
  void written(bool sent) override {
    if (sent) stream_->read();
  }
  void ended() override {
    require(streaming_ && !over_, "a stream ends once");
    over_ = true;
    stream_->finish(grpc::Status::OK);
  }
  void cancelled() override { over_ = true; }

 private:
  const std::shared_ptr<Stream> stream_;
  const bool streaming_;
  int messages_ = 0;
  bool over_ = false;
};

Methods methods() {
  Methods out;
  out["/e"] = {.open = [](const auto& stream) { return std::make_shared<Echo>(stream, false); }};
  out["/s"] = {.streaming = true, .open = [](const std::shared_ptr<Stream>& stream) {
                 auto echo = std::make_shared<Echo>(stream, true);
                 stream->read();
                 return echo;
               }};
  return out;
}

}  // namespace

void connection(Bytes bytes) {
  static const Methods kMethods = methods();
  static const int kEpoll = epoll_create1(EPOLL_CLOEXEC);
  std::array<int, 2> ends;
  require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0, "a socket pair");
  std::atomic<int64_t> unsent{0};
  {
    auto server = std::make_shared<Connection>(ends[0], nullptr, kMethods,
                                               ConnectionLimits{.message_bytes = 100'000, .calls = 8}, unsent);
    require(server->watch(kEpoll), "epoll");
    std::array<char, 1 << 12> buffer;
    while (!bytes.empty() && !server->closed()) {
      const ssize_t sent = ::send(ends[1], bytes.data(), std::min(bytes.size(), buffer.size()), MSG_NOSIGNAL);
      if (sent > 0) bytes = bytes.subspan(static_cast<size_t>(sent));
      server->on_event(buffer);
      while (::recv(ends[1], buffer.data(), buffer.size(), 0) > 0) continue;
      server->on_event(buffer);  // what the socket had no room for
    }
    server->tick(Connection::Clock::now());
    server->go_away();
    server->end();
  }
  ::close(ends[1]);
  require(alive == 0, "handlers end with their connection");
  require(unsent == 0, "what was not sent is not counted any more");
}

}  // namespace smt::fuzz
