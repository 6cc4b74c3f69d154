#include "connection.h"

#include <sys/epoll.h>

#include <algorithm>
#include <iterator>
#include <new>
#include <string_view>
#include <utility>

#include "callbacks.h"
#include "log.h"

namespace smt::server::rpc {
namespace {

constexpr int32_t kConnectionWindow = 16 << 20;
constexpr uint32_t kStreamWindow = 1 << 20;
// Of a client that is being refused: enough to see which scenario it asks for.
constexpr uint32_t kThrottledWindow = 4096;
constexpr std::chrono::seconds kThrottled{1};  // after the last refusal
constexpr std::chrono::seconds kLookForRoundTrip{1};
// From the scores to the socket: some 50 us, more where the thread has to wait for a core.
constexpr std::chrono::nanoseconds kAnswering{200'000};
constexpr uint32_t kMostHeaderBytes = 16 << 10;
// Frames are made up to here before the socket takes them.
constexpr size_t kMostPending = 1 << 20;
// A scenario's name is among the first bytes of a message, and so are a version and the number of rows.
constexpr size_t kEnough = 200;

// The connection whose events this thread is telling.
thread_local Connection* working = nullptr;

nghttp2_nv header(std::string_view name, std::string_view value) {
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

// The trailers of a call; `texts` holds what they point to until they are submitted.
struct Trailers {
  std::string status;
  std::string message;
  std::string pushback;

  Trailers(const grpc::Status& from, std::chrono::milliseconds retry_after)
      : status(std::to_string(static_cast<int>(from.error_code()))), message(percent_encoded(from.error_message())) {
    if (retry_after.count() > 0) pushback = std::to_string(retry_after.count());
  }
  void add_to(std::vector<nghttp2_nv>& headers) const {
    headers.push_back(header("grpc-status", status));
    if (!message.empty()) headers.push_back(header("grpc-message", message));
    // gRPC's retry design: clients with a retry policy wait so long before they try again.
    if (!pushback.empty()) headers.push_back(header("grpc-retry-pushback-ms", pushback));
  }
};

}  // namespace

Connection::Connection(int fd, SSL_CTX* tls, const Methods& methods, const ConnectionLimits& limits,
                       std::atomic<int64_t>& unsent)
    : methods_(methods), limits_(limits), unsent_(unsent), socket_(fd, tls) {}

Connection::~Connection() { unsent_.fetch_sub(counted_, std::memory_order_relaxed); }

bool Connection::watch(int epoll) {
  std::lock_guard lock(mutex_);
  epoll_ = epoll;
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.ptr = this;
  return epoll_ctl(epoll, EPOLL_CTL_ADD, socket_.fd(), &event) == 0;
}

bool Connection::on_event(std::span<char> buffer) {
  std::vector<Event> events;
  bool more = false;
  {
    std::lock_guard lock(mutex_);
    if (closed()) return false;
    if (!session_) {
      ssize_t done = socket_.handshake();
      if (done == Socket::kBlocked) {
        want_output(socket_.wants_output());
        return false;
      }
      if (done == Socket::kClosed) {
        log::debug("connection_failed", {{"reason", socket_.error()}});
        close();
      } else {
        begin_http2();
      }
    }
    if (!closed()) more = receive(buffer);
    events.swap(events_);
  }
  work(std::move(events));
  return more && !closed();
}

void Connection::tick(Clock::time_point now) {
  {
    std::lock_guard lock(mutex_);
    if (closed()) return;
    if (!settled_ && now - since_ > kHandshake) return socket_.shut_down();
    if (throttled_ && now - last_refusal_ > kThrottled) {
      set_window(false);
      flush();
    }
  }
  work();
}

void Connection::go_away() {
  {
    std::lock_guard lock(mutex_);
    if (closed() || !session_) return;
    nghttp2_submit_shutdown_notice(session_.get());
    flush();
  }
  work();
}

void Connection::end() {
  std::vector<Event> events;
  {
    std::lock_guard lock(mutex_);
    if (!closed()) close();
    events.swap(events_);
  }
  work(std::move(events));
}

void Connection::begin_http2() {
  nghttp2_session* session = nullptr;
  if (nghttp2_session_server_new2(&session, Callbacks::all(), this, Callbacks::options()) != 0) throw std::bad_alloc();
  session_.reset(session);
  const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits_.calls},
                                             {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow},
                                             {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, kMostHeaderBytes}};
  nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings, std::size(settings));
  nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
}

// True: there is more that the socket will not tell of.
bool Connection::receive(std::span<char> buffer) {
  ssize_t size = socket_.read(buffer.data(), buffer.size());
  if (size == Socket::kClosed) {
    close();
    return false;
  }
  if (size > 0) {
    received_ = Clock::now() - socket_.waited();
    auto taken =
        nghttp2_session_mem_recv(session_.get(), reinterpret_cast<uint8_t*>(buffer.data()), static_cast<size_t>(size));
    if (taken < 0) {
      log::debug("connection_failed", {{"reason", nghttp2_strerror(static_cast<int>(taken))}});
      flush();  // what nghttp2 has to say about it
      close();
      return false;
    }
    look_at_touched();
  }
  flush();
  if (!closed() && nghttp2_session_want_read(session_.get()) == 0 && nghttp2_session_want_write(session_.get()) == 0) {
    close();
  }
  return !closed() && socket_.holds_bytes();
}

// When an answer must be on its way to be in time for a client that gave a request, just received, so much time when
// it sent it: the way here and the way back take a round trip at least, and scores are no answer yet.
Connection::Clock::time_point Connection::deadline(std::chrono::nanoseconds timeout) {
  if (received_ >= look_again_) {
    look_again_ = received_ + kLookForRoundTrip;
    const auto found = socket_.round_trip();
    if (found && (!nearest_ || *found < *nearest_)) nearest_ = *found;
  }
  return received_ + timeout - nearest_.value_or(Clock::duration::zero()) - std::min(kAnswering, timeout / 8);
}

// Streams whose message goes on beyond what was read: those that wait for a permission to send it, and those that can
// be refused without it.
void Connection::look_at_touched() {
  for (Stream* stream : touched_) {
    stream->touched_ = false;
    const MessageReader& reader = stream->reader_;
    if (stream->begun_ || stream->finished_ || stream->closed_ || reader.empty()) continue;
    const std::string_view beginning = reader.beginning();
    if (!reader.compressed() && beginning.size() < kEnough) continue;
    stream->begun_ = true;
    stream->message_bytes_ = reader.size();
    add(*stream, What::kBegun, {}, std::string(beginning.substr(0, kEnough)));
  }
  touched_.clear();
}

void Connection::post(Action action) {
  {
    std::lock_guard lock(mail_mutex_);
    mail_.push_back(std::move(action));
  }
  if (working != this) work();
}

void Connection::work(std::vector<Event> events) {
  Connection* const outer = std::exchange(working, this);
  for (size_t at = 0;;) {
    if (at < events.size()) tell(events[at++]);
    if (!take_mail(events) && at == events.size()) break;
  }
  working = outer;
}

// False: there is none, or it is another thread's.
bool Connection::take_mail(std::vector<Event>& events) {
  {
    std::lock_guard lock(mail_mutex_);
    if (mail_.empty()) return false;
  }
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return false;  // its holder comes here too
  std::vector<Action> actions;
  {
    std::lock_guard mail_lock(mail_mutex_);
    actions.swap(mail_);
  }
  for (Action& action : actions) apply(action);
  if (!closed()) flush();
  std::move(events_.begin(), events_.end(), std::back_inserter(events));
  events_.clear();
  return true;
}

void Connection::apply(Action& action) {
  Stream& stream = *action.stream;
  const bool gone = stream.closed_ || stream.finished_;
  if (action.message) {
    if (gone) {
      add(stream, What::kNotWritten);
    } else {
      stream.out_.push_back(std::move(*action.message));
      if (!action.finish) submit_answer(stream);
    }
  }
  if (gone) return;
  if (action.grant) {
    stream.granted_ = true;
    nghttp2_session_set_local_window_size(session_.get(), NGHTTP2_FLAG_NONE, stream.id_, kStreamWindow);
    consume(stream, 0);
  }
  if (action.read) {
    stream.wanted_ = true;
    deliver(stream);
  }
  if (action.finish) finish(stream, std::move(action.status), action.retry_after);
}

void Connection::deliver(Stream& stream) {
  if (stream.finished_ || stream.closed_) return;
  const bool streaming = stream.method_ != nullptr && stream.method_->streaming;
  if (!streaming) {
    if (stream.ready_.empty() || stream.delivered_) return;
    stream.delivered_ = true;
    add(stream, What::kMessage, std::move(stream.ready_.front()));
    stream.ready_.clear();
    return;
  }
  if (!stream.wanted_) return;
  if (!stream.ready_.empty()) {
    stream.wanted_ = false;
    add(stream, What::kMessage, std::move(stream.ready_.front()));
    stream.ready_.pop_front();
    consume(stream, 0);
  } else if (stream.ended_ && !stream.told_end_) {
    stream.wanted_ = false;
    stream.told_end_ = true;
    add(stream, What::kEnded);
  }
}

// Gives the window back for bytes that arrived: not while the client is to wait.
void Connection::consume(Stream& stream, size_t bytes) {
  stream.unconsumed_ += bytes;
  if (!stream.granted_ || stream.closed_ || !stream.ready_.empty()) return;
  nghttp2_session_consume_stream(session_.get(), stream.id_, stream.unconsumed_);
  stream.unconsumed_ = 0;
}

void Connection::finish(Stream& stream, grpc::Status status, std::chrono::milliseconds retry_after) {
  stream.finished_ = true;
  stream.status_ = std::move(status);
  stream.retry_after_ = retry_after;
  stream.ready_.clear();
  if (stream.status_.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
    last_refusal_ = Clock::now();
    if (!throttled_ && stream.message_bytes_ > 2 * kThrottledWindow) set_window(true);
  }
  submit_answer(stream);
}

// The headers of an answer, if they are not on their way, and what is to follow them.
void Connection::submit_answer(Stream& stream) {
  if (stream.answered_) {
    nghttp2_session_resume_data(session_.get(), stream.id_);
    return;
  }
  stream.answered_ = true;
  std::vector<nghttp2_nv> headers{header(":status", "200"), header("content-type", "application/grpc"),
                                  header("grpc-accept-encoding", kAccepted)};
  if (stream.finished_ && stream.out_.empty()) {
    const Trailers trailers(stream.status_, stream.retry_after_);
    trailers.add_to(headers);
    nghttp2_submit_response(session_.get(), stream.id_, headers.data(), headers.size(), nullptr);
    return;
  }
  nghttp2_data_provider data{{.ptr = &stream}, Callbacks::read_answer};
  nghttp2_submit_response(session_.get(), stream.id_, headers.data(), headers.size(), &data);
}

void Connection::submit_trailers(Stream& stream) {
  const Trailers trailers(stream.status_, stream.retry_after_);
  std::vector<nghttp2_nv> headers;
  trailers.add_to(headers);
  nghttp2_submit_trailer(session_.get(), stream.id_, headers.data(), headers.size());
}

// Something that is not gRPC.
void Connection::refuse_http(Stream& stream, const char* status) {
  stream.finished_ = stream.answered_ = true;
  const nghttp2_nv headers[] = {header(":status", status)};
  nghttp2_submit_response(session_.get(), stream.id_, headers, std::size(headers), nullptr);
}

void Connection::set_window(bool throttled) {
  throttled_ = throttled;
  const nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, throttled ? kThrottledWindow : kStreamWindow}};
  nghttp2_submit_settings(session_.get(), NGHTTP2_FLAG_NONE, settings, std::size(settings));
}

void Connection::flush() {
  while (!closed()) {
    while (out_.size() - out_sent_ < kMostPending) {
      const uint8_t* data = nullptr;
      ssize_t size = nghttp2_session_mem_send(session_.get(), &data);
      if (size < 0) return break_off(nghttp2_strerror(static_cast<int>(size)));
      if (size == 0) break;
      out_.append(reinterpret_cast<const char*>(data), static_cast<size_t>(size));
    }
    if (out_.size() == out_sent_) break;
    ssize_t sent = socket_.write(out_.data() + out_sent_, out_.size() - out_sent_);
    if (sent == Socket::kClosed) return break_off(socket_.error());
    if (sent == Socket::kBlocked) break;
    out_sent_ += static_cast<size_t>(sent);
    if (out_sent_ == out_.size()) {
      out_.clear();
      out_sent_ = 0;
    }
  }
  const auto pending = static_cast<int64_t>(out_.size() - out_sent_);
  unsent_.fetch_add(pending - counted_, std::memory_order_relaxed);
  counted_ = pending;
  want_output(pending > 0);
}

void Connection::want_output(bool on) {
  if (on == polls_output_ || closed()) return;
  polls_output_ = on;
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP | (on ? uint32_t{EPOLLOUT} : 0U);
  event.data.ptr = this;
  epoll_ctl(epoll_, EPOLL_CTL_MOD, socket_.fd(), &event);
}

// From whichever thread: the one that polls will find the socket closed.
void Connection::break_off(std::string why) {
  log::debug("connection_failed", {{"reason", why}});
  out_.clear();
  out_sent_ = 0;
  unsent_.fetch_sub(counted_, std::memory_order_relaxed);
  counted_ = 0;
  socket_.shut_down();
}

void Connection::close() {
  closed_.store(true, std::memory_order_release);
  epoll_ctl(epoll_, EPOLL_CTL_DEL, socket_.fd(), nullptr);
  socket_.shut_down();
  touched_.clear();
  auto streams = std::move(streams_);
  streams_.clear();
  for (auto& [id, stream] : streams) release(*stream);
  session_.reset();
  unsent_.fetch_sub(counted_, std::memory_order_relaxed);
  counted_ = 0;
}

// The stream is no longer nghttp2's.
void Connection::release(Stream& stream) {
  if (stream.closed_) return;
  stream.closed_ = true;
  if (!stream.out_.empty()) add(stream, What::kNotWritten);
  if (!stream.finished_) add(stream, What::kCancelled);
  add(stream, What::kClosed);
  stream.out_.clear();
  stream.ready_.clear();
}

void Connection::add(Stream& stream, What what, grpc::ByteBuffer bytes, std::string beginning) {
  events_.push_back({stream.shared_from_this(), what, std::move(bytes), std::move(beginning)});
}

void Connection::tell(Event& event) {
  Stream& stream = *event.stream;
  std::shared_ptr<Handler> handler;
  {
    std::lock_guard lock(stream.handler_mutex_);
    if (event.what == What::kClosed) {
      handler = std::move(stream.handler_);
      stream.handler_.reset();
      return;
    }
    handler = stream.handler_;
  }
  if (!handler) {
    if (event.what != What::kOpen && event.what != What::kBegun && event.what != What::kMessage) return;
    handler = stream.method_->open(event.stream);
    std::lock_guard lock(stream.handler_mutex_);
    stream.handler_ = handler;
  }
  switch (event.what) {
    case What::kBegun:
      if (!handler->begun(event.beginning)) {
        Action action;
        action.stream = event.stream;
        action.grant = true;
        post(std::move(action));
      }
      return;
    case What::kMessage:
      return handler->message(std::move(event.bytes));
    case What::kEnded:
      return handler->ended();
    case What::kWritten:
      return handler->written(true);
    case What::kNotWritten:
      return handler->written(false);
    case What::kCancelled:
      return handler->cancelled();
    case What::kOpen:
    case What::kClosed:
      return;
  }
}

void Stream::read() {
  Connection::Action action;
  action.stream = shared_from_this();
  action.read = true;
  connection_->post(std::move(action));
}

void Stream::write(std::string framed) {
  Connection::Action action;
  action.stream = shared_from_this();
  action.message = std::move(framed);
  connection_->post(std::move(action));
}

void Stream::finish(grpc::Status status, std::chrono::milliseconds retry_after) {
  Connection::Action action;
  action.stream = shared_from_this();
  action.finish = true;
  action.status = std::move(status);
  action.retry_after = retry_after;
  connection_->post(std::move(action));
}

void Stream::reply(std::string framed) {
  Connection::Action action;
  action.stream = shared_from_this();
  action.message = std::move(framed);
  action.finish = true;
  connection_->post(std::move(action));
}

}  // namespace smt::server::rpc
