// A Listener and its connections, called by a client of libnghttp2's over the loopback.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <thread>

#include "byte_buffer.h"
#include "rpc/listener.h"

namespace smt::server::rpc {
namespace {

using namespace std::chrono_literals;

std::string message(const std::string& text) { return framed(text); }

// What a client saw of one call.
struct Seen {
  std::map<std::string, std::string> headers;
  std::string data;
  bool closed = false;
  uint32_t code = 0;
};

// Not thread-safe. Sends what it is told, and reads until what it waits for is there.
class Client {
 public:
  explicit Client(int port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_client_new(&session_, callbacks, this);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, nullptr, 0);
  }
  ~Client() {
    nghttp2_session_del(session_);
    ::close(fd_);
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // `body`: what is sent of it now; `end`: and no more comes.
  int32_t call(const std::string& path, std::string body, bool end = true,
               std::map<std::string, std::string> more = {}) {
    std::map<std::string, std::string> fields{{":method", "POST"}, {":path", path},
                                              {":scheme", "http"}, {":authority", "a"},
                                              {"te", "trailers"},  {"content-type", "application/grpc"}};
    for (auto& [name, value] : more) fields[name] = value;
    std::vector<nghttp2_nv> headers;
    for (const auto& [name, value] : fields) {
      headers.push_back({reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
                         reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
                         NGHTTP2_NV_FLAG_NONE});
    }
    bodies_.push_back(std::make_unique<Body>(Body{std::move(body), 0, end}));
    nghttp2_data_provider data{{.ptr = bodies_.back().get()}, read_body};
    const int32_t id = nghttp2_submit_request(session_, nullptr, headers.data(), headers.size(), &data, nullptr);
    by_id_[id] = bodies_.back().get();
    send();
    return id;
  }
  void more(int32_t id, const std::string& body, bool end) {
    by_id_[id]->text += body;
    by_id_[id]->end = end;
    nghttp2_session_resume_data(session_, id);
    send();
  }
  void reset(int32_t id) {
    nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
    send();
  }
  void raw(const std::string& bytes) { EXPECT_EQ(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL), bytes.size()); }

  // False: the connection ended, or nothing came for ten seconds.
  bool until(const std::function<bool()>& done) {
    while (!done()) {
      send();
      pollfd waiting{fd_, POLLIN, 0};
      if (::poll(&waiting, 1, 10'000) != 1) return false;
      char buffer[1 << 14];
      const ssize_t size = ::recv(fd_, buffer, sizeof buffer, 0);
      if (size <= 0) return done();
      if (nghttp2_session_mem_recv(session_, reinterpret_cast<uint8_t*>(buffer), static_cast<size_t>(size)) < 0) {
        return false;
      }
    }
    return true;
  }
  Seen& finished(int32_t id) {
    EXPECT_TRUE(until([&] { return seen[id].closed; })) << id;
    return seen[id];
  }

  std::map<int32_t, Seen> seen;
  bool goaway = false;
  uint32_t window = 0;  // the newest that the server set
  size_t body_sent = 0;

 private:
  struct Body {
    std::string text;
    size_t sent;
    bool end;
  };

  void send() {
    for (;;) {
      const uint8_t* data = nullptr;
      const ssize_t size = nghttp2_session_mem_send(session_, &data);
      if (size <= 0) return;
      if (::send(fd_, data, static_cast<size_t>(size), MSG_NOSIGNAL) != size) return;
    }
  }
  static Client& self(void* user) { return *static_cast<Client*>(user); }
  static ssize_t read_body(nghttp2_session*, int32_t, uint8_t* into, size_t size, uint32_t* flags,
                           nghttp2_data_source* source, void* user) {
    auto& body = *static_cast<Body*>(source->ptr);
    const size_t part = std::min(size, body.text.size() - body.sent);
    body.text.copy(reinterpret_cast<char*>(into), part, body.sent);
    body.sent += part;
    self(user).body_sent += part;
    if (body.sent == body.text.size() && body.end) {
      *flags |= NGHTTP2_DATA_FLAG_EOF;
    } else if (part == 0) {
      return NGHTTP2_ERR_DEFERRED;
    }
    return static_cast<ssize_t>(part);
  }
  static int on_header(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
                       const uint8_t* value, size_t value_size, uint8_t, void* user) {
    self(user).seen[frame->hd.stream_id].headers[{reinterpret_cast<const char*>(name), name_size}] = {
        reinterpret_cast<const char*>(value), value_size};
    return 0;
  }
  static int on_data(nghttp2_session*, uint8_t, int32_t id, const uint8_t* data, size_t size, void* user) {
    self(user).seen[id].data.append(reinterpret_cast<const char*>(data), size);
    return 0;
  }
  static int on_close(nghttp2_session*, int32_t id, uint32_t code, void* user) {
    self(user).seen[id].closed = true;
    self(user).seen[id].code = code;
    return 0;
  }
  static int on_frame(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    if (frame->hd.type == NGHTTP2_GOAWAY) self(user).goaway = true;
    if (frame->hd.type == NGHTTP2_SETTINGS) {
      for (size_t i = 0; i < frame->settings.niv; ++i) {
        const nghttp2_settings_entry& entry = frame->settings.iv[i];
        if (entry.settings_id == NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE) self(user).window = entry.value;
      }
    }
    return 0;
  }

  const int fd_;
  nghttp2_session* session_ = nullptr;
  std::vector<std::unique_ptr<Body>> bodies_;
  std::map<int32_t, Body*> by_id_;
};

struct Counts {
  ~Counts() {
    for (std::thread& thread : threads) thread.join();
  }
  // Not by a handler itself, whose end may come on that thread.
  void later(std::function<void()> work) {
    std::lock_guard lock(mutex);
    threads.emplace_back(std::move(work));
  }

  std::atomic<int> messages{0};
  std::atomic<int> cancelled{0};
  std::atomic<int> ended{0};
  std::atomic<int> alive{0};
  std::atomic<bool> stalled{false};
  std::atomic<bool> go_on{false};
  std::mutex mutex;  // guards threads
  std::vector<std::thread> threads;
};

// Answers with what it was sent, on a thread of its own if it begins with "later".
class Echo final : public Handler {
 public:
  Echo(std::shared_ptr<Stream> stream, Counts& counts) : stream_(std::move(stream)), counts_(counts) {
    ++counts_.alive;
  }
  ~Echo() override { --counts_.alive; }
  bool begun(std::string_view beginning) override {
    if (!beginning.starts_with("refuse")) return false;
    stream_->finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "full"}, 7ms);
    return true;
  }
  void message(grpc::ByteBuffer bytes) override {
    ++counts_.messages;
    const std::string text = text_of(bytes);
    if (text == "never") return;
    if (text == "stall") {
      counts_.stalled = true;
      counts_.stalled.notify_all();
      counts_.go_on.wait(false);
    }
    if (text == "deadline") {
      return stream_->reply(framed(std::to_string(stream_->deadline().time_since_epoch().count())));
    }
    if (text == "fail") return stream_->finish({grpc::StatusCode::NOT_FOUND, "none\n"});
    if (text.starts_with("refuse")) return stream_->finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "full"}, 7ms);
    if (!text.starts_with("later")) return stream_->reply(framed(text));
    counts_.later([stream = stream_, text] { stream->reply(framed(text)); });
  }
  void cancelled() override { ++counts_.cancelled; }

 private:
  const std::shared_ptr<Stream> stream_;
  Counts& counts_;
};

// Sends each message back before it reads the next.
class Chat final : public Handler {
 public:
  Chat(std::shared_ptr<Stream> stream, Counts& counts) : stream_(std::move(stream)), counts_(counts) {
    ++counts_.alive;
  }
  ~Chat() override { --counts_.alive; }
  void message(grpc::ByteBuffer bytes) override {
    ++counts_.messages;
    stream_->write(framed(text_of(bytes)));
  }
  void written(bool sent) override {
    if (sent) stream_->read();
  }
  void ended() override {
    ++counts_.ended;
    stream_->finish(grpc::Status::OK);
  }
  void cancelled() override { ++counts_.cancelled; }

 private:
  const std::shared_ptr<Stream> stream_;
  Counts& counts_;
};

class ListenerTest : public testing::Test {
 protected:
  ListenerTest() {
    methods_["/echo"] = {.open = [this](const auto& stream) { return std::make_shared<Echo>(stream, counts_); }};
    methods_["/chat"] = {.streaming = true, .open = [this](const std::shared_ptr<Stream>& stream) {
                           auto chat = std::make_shared<Chat>(stream, counts_);
                           stream->read();
                           return chat;
                         }};
    listener_ = std::make_unique<Listener>(
        Listener::Address{"--port", "127.0.0.1", 0}, 2, methods_,
        ConnectionLimits{.message_bytes = 4 << 20, .calls = 100}, nullptr,
        TurnHooks{.begin = [] { polls = true; }, .end = [this] { turns_ += polls ? 1 : 0; }});
    listener_->start();
  }
  void expect_gone() {  // the handlers of what is over
    for (int i = 0; i < 10'000 && counts_.alive > 0; ++i) std::this_thread::sleep_for(1ms);
    EXPECT_EQ(counts_.alive, 0);
  }

  static inline thread_local bool polls = false;  // the thread has begun
  std::atomic<int> turns_{0};
  Counts counts_;
  Methods methods_;
  std::unique_ptr<Listener> listener_;
};

TEST_F(ListenerTest, AnswersCalls) {
  Client client(listener_->port());
  for (size_t size : {0, 1, 100, 20'000, 3'000'000}) {
    const std::string text(size, 'x');
    Seen& seen = client.finished(client.call("/echo", message(text)));
    EXPECT_EQ(seen.headers[":status"], "200");
    EXPECT_EQ(seen.headers["content-type"], "application/grpc");
    EXPECT_EQ(seen.headers["grpc-status"], "0");
    EXPECT_EQ(seen.data, message(text));
  }
  EXPECT_EQ(client.finished(client.call("/echo", message("later"))).data, message("later"));
  expect_gone();
}

TEST_F(ListenerTest, TurnsEndOnThreadsThatHaveBegun) {
  Client client(listener_->port());
  client.finished(client.call("/echo", message("now")));
  for (int i = 0; i < 10'000 && turns_ == 0; ++i) std::this_thread::sleep_for(1ms);
  EXPECT_GT(turns_, 0);
}

TEST_F(ListenerTest, ManyCallsOfManyClientsFromOtherThreads) {
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([this, i] {
      Client client(listener_->port());
      for (int round = 0; round < 20; ++round) {
        std::map<int32_t, std::string> sent;
        for (int call = 0; call < 40; ++call) {
          std::string text = (call % 2 == 0 ? "later " : "now ") + std::to_string(i * 1000 + call);
          text.resize(text.size() + static_cast<size_t>(call) * 500, '.');
          sent[client.call("/echo", message(text))] = text;
        }
        for (auto& [id, text] : sent) EXPECT_EQ(client.finished(id).data, message(text));
      }
    });
  }
  for (std::thread& thread : clients) thread.join();
  EXPECT_EQ(counts_.messages, 4 * 20 * 40);
  expect_gone();
}

TEST_F(ListenerTest, DeadlinesCountFromWhenARequestHadArrived) {
  Client client(listener_->port());
  auto deadline = [&](int32_t id) {
    const std::string text = client.finished(id).data.substr(message("").size());
    return Stream::Clock::time_point(Stream::Clock::duration(std::stoll(text)));
  };
  auto before = Stream::Clock::now();
  const auto quick = deadline(client.call("/echo", message("deadline"), true, {{"grpc-timeout", "10S"}}));
  EXPECT_GT(quick, before + 9s);
  EXPECT_LE(quick, Stream::Clock::now() + 10s);
  // While the thread that reads is busy.
  const int32_t stall = client.call("/echo", message("stall"));
  counts_.stalled.wait(false);
  const int32_t waits = client.call("/echo", message("deadline"), true, {{"grpc-timeout", "10S"}});
  const auto sent = Stream::Clock::now();
  std::this_thread::sleep_for(100ms);
  counts_.go_on = true;
  counts_.go_on.notify_all();
  EXPECT_LE(deadline(waits), sent + 10s + 50ms);
  client.finished(stall);
}

TEST_F(ListenerTest, FailuresAreTrailersAlone) {
  Client client(listener_->port());
  Seen& seen = client.finished(client.call("/echo", message("fail")));
  EXPECT_EQ(seen.headers["grpc-status"], "5");
  EXPECT_EQ(seen.headers["grpc-message"], "none%0A");
  EXPECT_EQ(seen.data, "");
  EXPECT_EQ(client.finished(client.call("/none", message("x"))).headers["grpc-status"], "12");
  EXPECT_EQ(client.finished(client.call("/echo", "")).headers["grpc-status"], "13");
  EXPECT_EQ(client.finished(client.call("/echo", message("cut").substr(0, 6))).headers["grpc-status"], "13");
  EXPECT_EQ(client.finished(client.call("/echo", message("x"), true, {{"grpc-encoding", "br"}})).headers["grpc-status"],
            "12");
  EXPECT_EQ(client.finished(client.call("/echo", message(std::string(5 << 20, 'x')))).headers["grpc-status"], "8");
  EXPECT_EQ(client.finished(client.call("/echo", "", true, {{":method", "GET"}})).headers[":status"], "405");
  EXPECT_EQ(client.finished(client.call("/echo", "", true, {{"content-type", "text/html"}})).headers[":status"], "415");
  expect_gone();
}

TEST_F(ListenerTest, RefusesByTheFirstBytesAndThenGivesASmallWindow) {
  Client client(listener_->port());
  const std::string large = message("refuse" + std::string(100'000, 'x'));
  // The rest of it never comes.
  Seen& seen = client.finished(client.call("/echo", large.substr(0, 1000), false));
  EXPECT_EQ(seen.headers["grpc-status"], "8");
  EXPECT_EQ(seen.headers["grpc-retry-pushback-ms"], "7");
  EXPECT_EQ(seen.code, NGHTTP2_NO_ERROR);
  EXPECT_EQ(counts_.messages, 0);
  EXPECT_TRUE(client.until([&] { return client.window == 4096; }));
  client.body_sent = 0;
  EXPECT_EQ(client.finished(client.call("/echo", large)).headers["grpc-status"], "8");
  EXPECT_EQ(client.body_sent, 4096U);
  // What is not refused gets through all the same.
  const std::string good = message(std::string(2'000'000, 'x'));
  EXPECT_EQ(client.finished(client.call("/echo", good)).data, good);
  EXPECT_TRUE(client.until([&] { return client.window > 4096; }));  // once it is over
  expect_gone();
}

TEST_F(ListenerTest, TellsOfClientsThatGo) {
  {
    Client client(listener_->port());
    const int32_t id = client.call("/echo", message("never"));
    client.finished(client.call("/echo", message("x")));
    client.reset(id);
    client.finished(client.call("/echo", message("x")));
    EXPECT_EQ(counts_.cancelled, 1);
    client.call("/echo", message("never"));
    client.call("/chat", message("x"), false);
    client.finished(client.call("/echo", message("x")));
  }
  expect_gone();
  EXPECT_EQ(counts_.cancelled, 3);
}

TEST_F(ListenerTest, StreamsGoOnUntilTheirEnd) {
  Client client(listener_->port());
  std::string sent;
  for (int i = 0; i < 20'000; ++i) sent += message(std::to_string(i));  // more than would nest
  const int32_t id = client.call("/chat", sent, false);
  EXPECT_TRUE(client.until([&] { return client.seen[id].data.size() == sent.size(); }));
  client.more(id, message("last"), true);
  Seen& seen = client.finished(id);
  EXPECT_EQ(seen.data, sent + message("last"));
  EXPECT_EQ(seen.headers["grpc-status"], "0");
  EXPECT_EQ(counts_.ended, 1);
  expect_gone();
}

TEST_F(ListenerTest, SaysGoodbye) {
  Client client(listener_->port());
  client.finished(client.call("/echo", message("x")));
  listener_->go_away();
  EXPECT_TRUE(client.until([&] { return client.goaway; }));
}

TEST_F(ListenerTest, ClosesWhatIsNoHttp2) {
  Client client(listener_->port());
  client.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_FALSE(client.until([] { return false; }));
  Client other(listener_->port());
  EXPECT_EQ(other.finished(other.call("/echo", message("x"))).data, message("x"));
}

TEST_F(ListenerTest, EndsWithCallsUnderWay) {
  Client client(listener_->port());
  client.call("/echo", message("never"));
  client.call("/chat", message("x"), false);
  client.finished(client.call("/echo", message("x")));
  listener_.reset();
  EXPECT_EQ(counts_.cancelled, 2);
  EXPECT_EQ(counts_.alive, 0);
}

}  // namespace
}  // namespace smt::server::rpc
