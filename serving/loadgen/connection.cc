#include "connection.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <string_view>

namespace smt::loadgen {
namespace {

// Windows so large that answers never wait for us: what is measured is the server.
constexpr int32_t kStreamWindow = 16 << 20;
constexpr int32_t kConnectionWindow = 1 << 30;
// Frames are made up to here before the socket takes them; beyond, calls wait where their deadline still finds them.
constexpr size_t kMostPending = 128 << 10;

std::string_view view(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

// A status of one or two digits; -1 for anything else.
int parse_status(std::string_view text) {
  int value = 0;
  if (text.empty() || text.size() > 3) return -1;
  for (char c : text) {
    if (c < '0' || c > '9') return -1;
    value = value * 10 + (c - '0');
  }
  return value;
}

// At most eight digits and a unit, as gRPC's HTTP/2 mapping wants; the finest that fits.
std::string timeout_header(Nanos left) {
  constexpr int64_t kLimit = 100'000'000;
  int64_t micros = std::max<int64_t>(1, left / 1000);
  if (micros < kLimit) return std::to_string(micros) + "u";
  int64_t millis = micros / 1000;
  return millis < kLimit ? std::to_string(millis) + "m" : std::to_string(millis / 1000) + "S";
}

Call* call_of(nghttp2_session* session, int32_t stream_id) {
  return static_cast<Call*>(nghttp2_session_get_stream_user_data(session, stream_id));
}

}  // namespace

struct Connection::Callbacks {
  static Connection& self(void* data) { return *static_cast<Connection*>(data); }

  static ssize_t send(nghttp2_session*, const uint8_t* data, size_t size, int, void* user) {
    Connection& connection = self(user);
    if (connection.output_.pending() > kMostPending) return NGHTTP2_ERR_WOULDBLOCK;
    connection.output_.copy(reinterpret_cast<const char*>(data), size);
    return static_cast<ssize_t>(size);
  }

  static ssize_t payload(nghttp2_session*, int32_t, uint8_t*, size_t most, uint32_t* flags, nghttp2_data_source* source,
                         void*) {
    auto& call = *static_cast<Call*>(source->ptr);
    size_t left = call.payload->size - call.payload_sent;
    *flags = NGHTTP2_DATA_FLAG_NO_COPY | (left <= most ? uint32_t{NGHTTP2_DATA_FLAG_EOF} : 0U);
    return static_cast<ssize_t>(std::min(left, most));
  }

  static int send_payload(nghttp2_session*, nghttp2_frame*, const uint8_t* head, size_t size,
                          nghttp2_data_source* source, void* user) {
    constexpr size_t kFrameHead = 9;
    Connection& connection = self(user);
    if (connection.output_.pending() > kMostPending) return NGHTTP2_ERR_WOULDBLOCK;
    auto& call = *static_cast<Call*>(source->ptr);
    connection.output_.copy(reinterpret_cast<const char*>(head), kFrameHead);
    connection.output_.refer(call.payload->data + call.payload_sent, size);
    call.payload_sent += static_cast<uint32_t>(size);
    return 0;
  }

  static ssize_t frame_size(nghttp2_session*, uint8_t, int32_t, int32_t session_window, int32_t stream_window,
                            uint32_t max_frame_size, void*) {
    return std::min({session_window, stream_window, static_cast<int32_t>(max_frame_size)});
  }

  static int header(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
                    const uint8_t* value, size_t value_size, uint8_t, void*) {
    Call* call = call_of(session, frame->hd.stream_id);
    if (call == nullptr) return 0;
    if (view(name, name_size) == "grpc-status") {
      call->grpc_status = parse_status(view(value, value_size));
    } else if (view(name, name_size) == ":status") {
      call->http_status = parse_status(view(value, value_size));
    }
    return 0;
  }

  static int data(nghttp2_session* session, uint8_t, int32_t stream_id, const uint8_t* data, size_t size, void*) {
    Call* call = call_of(session, stream_id);
    if (call == nullptr) return 0;
    size_t head = 0;
    for (; head < size && call->received + head < call->prefix.size(); ++head) {
      call->prefix[call->received + head] = data[head];
    }
    if (call->keep_answer) call->answer += view(data + head, size - head);
    call->received += size;
    return 0;
  }

  static int frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    Connection& connection = self(user);
    switch (frame->hd.type) {
      case NGHTTP2_SETTINGS:
        if (connection.state_ == State::kSettings) connection.state_ = State::kReady;
        connection.lived_ = true;
        break;
      case NGHTTP2_GOAWAY:
        if (connection.state_ != State::kClosed) connection.state_ = State::kDraining;
        break;
      case NGHTTP2_DATA:
      case NGHTTP2_HEADERS:
        if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
          Call* call = call_of(session, frame->hd.stream_id);
          if (call == nullptr) break;
          if (call->payload_sent < call->payload->size) connection.early_.push_back(frame->hd.stream_id);
          connection.finish(*call);
        }
        break;
      default:
        break;
    }
    return 0;
  }

  static int stream_closed(nghttp2_session* session, int32_t stream_id, uint32_t code, void* user) {
    Connection& connection = self(user);
    Call* call = call_of(session, stream_id);
    if (call == nullptr) return 0;
    if (!call->finished && code == NGHTTP2_REFUSED_STREAM) {
      connection.forget(*call);
      connection.events_.refused(*call);
      return 0;
    }
    if (!call->finished) {
      if (call->grpc_status >= 0 || code == NGHTTP2_NO_ERROR) {
        connection.finish(*call);
      } else {
        connection.events_.finished(*call, kStreamReset);
      }
    }
    connection.forget(*call);
    connection.events_.released(*call);
    return 0;
  }

  static nghttp2_session_callbacks* all() {
    static nghttp2_session_callbacks* const kAll = [] {
      nghttp2_session_callbacks* made = nullptr;
      if (nghttp2_session_callbacks_new(&made) != 0) throw std::bad_alloc();
      nghttp2_session_callbacks_set_send_callback(made, send);
      nghttp2_session_callbacks_set_send_data_callback(made, send_payload);
      nghttp2_session_callbacks_set_data_source_read_length_callback(made, frame_size);
      nghttp2_session_callbacks_set_on_header_callback(made, header);
      nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, data);
      nghttp2_session_callbacks_set_on_frame_recv_callback(made, frame);
      nghttp2_session_callbacks_set_on_stream_close_callback(made, stream_closed);
      return made;
    }();
    return kAll;
  }
};

Connection::Connection(const Address& address, SSL_CTX* tls, const std::string& server_name, int epoll,
                       CallEvents& events)
    : address_(address), events_(events), transport_(address, tls, server_name) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.ptr = this;
  if (!transport_.error().empty()) {
    close(transport_.error());
  } else if (epoll_ctl(epoll, EPOLL_CTL_ADD, transport_.fd(), &event) != 0) {
    close(std::string("epoll: ") + std::strerror(errno));
  }
}

Connection::~Connection() = default;

void Connection::begin_http2() {
  nghttp2_session* session = nullptr;
  if (nghttp2_session_client_new(&session, Callbacks::all(), this) != 0) throw std::bad_alloc();
  session_.reset(session);
  const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                             {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow}};
  nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings, std::size(settings));
  nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
  state_ = State::kSettings;
}

void Connection::submit(Call& call, std::span<const nghttp2_nv> headers) {
  call.slot = calls_.size();
  calls_.push_back(&call);
  waiting_.push_back({&call, headers});
}

// Those that may go now. gRPC's own clients also tell the server how much time is left when a call is sent, not how
// much there was when it was made.
void Connection::send_waiting() {
  if (state_ != State::kReady || waiting_.empty()) return;
  const Nanos now = now_ns();
  while (state_ == State::kReady && !waiting_.empty() && output_.pending() <= kMostPending) {
    const size_t streams = calls_.size() - waiting_.size();
    if (streams >= nghttp2_session_get_remote_settings(session_.get(), NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)) return;
    const Waiting next = waiting_.front();
    waiting_.pop_front();
    if (next.call->deadline == 0 || now < next.call->deadline) {
      send(next, now);
      continue;
    }
    events_.finished(*next.call, kUnsentDeadline);
    forget(*next.call);
    events_.released(*next.call);
  }
}

void Connection::send(const Waiting& waiting, Nanos now) {
  constexpr uint8_t kStatic = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE;
  static constexpr char kAuthority[] = ":authority";
  auto* name = reinterpret_cast<uint8_t*>(const_cast<char*>(kAuthority));
  auto* value = reinterpret_cast<uint8_t*>(const_cast<char*>(address_.name.data()));
  Call& call = *waiting.call;
  // Pseudo-headers come first.
  headers_.clear();
  headers_.push_back({name, value, sizeof kAuthority - 1, address_.name.size(), kStatic});
  headers_.insert(headers_.end(), waiting.headers.begin(), waiting.headers.end());
  std::string timeout;
  if (call.deadline != 0) {
    static constexpr char kTimeout[] = "grpc-timeout";
    timeout = timeout_header(call.deadline - now);
    headers_.push_back({reinterpret_cast<uint8_t*>(const_cast<char*>(kTimeout)),
                        reinterpret_cast<uint8_t*>(timeout.data()), sizeof kTimeout - 1, timeout.size(),
                        NGHTTP2_NV_FLAG_NO_COPY_NAME});
  }
  nghttp2_data_provider payload{{.ptr = &call}, Callbacks::payload};
  call.sent = now;
  call.stream_id = nghttp2_submit_request(session_.get(), nullptr, headers_.data(), headers_.size(), &payload, &call);
  // Stream ids are used up after 2^30 calls.
  if (call.stream_id < 0) {
    state_ = State::kDraining;
    waiting_.push_front(waiting);
    hand_back_waiting();
  }
}

// The server takes no more calls: another connection's may.
void Connection::hand_back_waiting() {
  while (!waiting_.empty()) {
    Call& call = *waiting_.front().call;
    waiting_.pop_front();
    forget(call);
    events_.refused(call);
  }
}

void Connection::cancel(Call& call) {
  if (call.sent != 0) {
    nghttp2_submit_rst_stream(session_.get(), NGHTTP2_FLAG_NONE, call.stream_id, NGHTTP2_CANCEL);
    return;
  }
  waiting_.erase(
      std::find_if(waiting_.begin(), waiting_.end(), [&](const Waiting& each) { return each.call == &call; }));
  forget(call);
  events_.released(call);
}

// Answers that came before their request was whole: the rest of it is of no use. A server that says so itself, as it
// should (RFC 9113, 8.1), is spared the reset: it would be woken up for it.
void Connection::give_up_answered() {
  for (int32_t id : early_) {
    if (call_of(session_.get(), id) == nullptr) continue;
    nghttp2_submit_rst_stream(session_.get(), NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
  }
  early_.clear();
}

void Connection::on_event(std::span<char> buffer) {
  if (state_ == State::kConnecting) {
    ssize_t done = transport_.handshake();
    if (done == Transport::kClosed) close(transport_.error());
    if (done <= 0) return;
    begin_http2();
  }
  while (state_ != State::kClosed) {
    ssize_t size = transport_.read(buffer.data(), buffer.size());
    if (size == Transport::kBlocked) break;
    if (size < 0) {
      close(transport_.error());
      break;
    }
    bytes_in_ += static_cast<uint64_t>(size);
    ssize_t taken =
        nghttp2_session_mem_recv(session_.get(), reinterpret_cast<uint8_t*>(buffer.data()), static_cast<size_t>(size));
    if (taken < 0) close(std::string("HTTP/2: ") + nghttp2_strerror(static_cast<int>(taken)));
  }
  give_up_answered();
  if (state_ == State::kDraining) hand_back_waiting();
}

void Connection::flush() {
  if (state_ == State::kConnecting || state_ == State::kClosed) return;
  while (send_waiting(), output_.pending() > 0 || nghttp2_session_want_write(session_.get()) != 0) {
    int sent = nghttp2_session_send(session_.get());
    if (sent != 0) return close(std::string("HTTP/2: ") + nghttp2_strerror(sent));
    size_t before = output_.pending();
    if (before == 0) break;  // what is left waits for the server's window
    ssize_t flushed = output_.flush(transport_);
    bytes_out_ += before - output_.pending();
    if (flushed == Transport::kClosed) return close(transport_.error());
    if (flushed == Transport::kBlocked) return;
  }
  if (state_ == State::kDraining && calls_.empty()) close("the server ended the connection");
}

void Connection::close(const std::string& why, bool abruptly) {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  error_ = why;
  if (abruptly) transport_.reset();
  waiting_.clear();
  while (!calls_.empty()) {
    Call& call = *calls_.back();
    if (!call.finished) events_.finished(call, call.sent != 0 ? kConnectionLost : kNoConnection);
    forget(call);
    events_.released(call);
  }
}

// With the whole answer, or what there is of it.
void Connection::finish(Call& call) {
  if (call.finished) return;
  bool is_grpc = call.http_status == 200 && call.grpc_status >= 0 && call.grpc_status <= kLastStatus;
  bool whole = call.grpc_status != kOk || call.whole_message();
  call.waited = transport_.waited();
  events_.finished(call, is_grpc && whole ? static_cast<Outcome>(call.grpc_status) : kBadAnswer);
}

void Connection::forget(Call& call) {
  calls_.back()->slot = call.slot;
  calls_[call.slot] = calls_.back();
  calls_.pop_back();
}

}  // namespace smt::loadgen
