#include "callbacks.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string_view>

#include "connection.h"

namespace smt::server::rpc {
namespace {

constexpr uint64_t kMostResets = 1'000'000;  // a second

std::string_view text(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

Connection& self(void* user) { return *static_cast<Connection*>(user); }

Stream* stream_of(nghttp2_session* session, int32_t id) {
  return static_cast<Stream*>(nghttp2_session_get_stream_user_data(session, id));
}

// No exception may pass nghttp2: what fails for want of memory ends the connection.
template <typename Function>
int guarded(Function function) {
  try {
    function();
  } catch (const std::bad_alloc&) {
    return NGHTTP2_ERR_CALLBACK_FAILURE;
  }
  return 0;
}

bool ends_stream(const nghttp2_frame* frame) { return (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0; }

}  // namespace

const nghttp2_session_callbacks* Callbacks::all() {
  static const nghttp2_session_callbacks* const kAll = [] {
    nghttp2_session_callbacks* made = nullptr;
    if (nghttp2_session_callbacks_new(&made) != 0) throw std::bad_alloc();
    nghttp2_session_callbacks_set_on_begin_headers_callback(made, begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(made, header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(made, received);
    nghttp2_session_callbacks_set_on_frame_send_callback(made, sent);
    nghttp2_session_callbacks_set_on_stream_close_callback(made, closed);
    return made;
  }();
  return kAll;
}

const nghttp2_option* Callbacks::options() {
  static const nghttp2_option* const kOptions = [] {
    nghttp2_option* made = nullptr;
    if (nghttp2_option_new(&made) != 0) throw std::bad_alloc();
    nghttp2_option_set_no_auto_window_update(made, 1);
    nghttp2_option_set_no_closed_streams(made, 1);
    // nghttp2 ends a connection whose client resets 33 streams a second (CVE-2023-44487). Under overload clients reset
    // each call that is refused before they had sent it, and each whose deadline passes; what a reset call has cost by
    // then is bounded by the scheduler's limits.
    nghttp2_option_set_stream_reset_rate_limit(made, kMostResets, kMostResets);
    return made;
  }();
  return kOptions;
}

int Callbacks::begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
  if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
  Connection& connection = self(user);
  const int32_t id = frame->hd.stream_id;
  try {
    auto stream = std::make_shared<Stream>(connection.shared_from_this(), id, connection.limits_.message_bytes);
    stream->granted_ = !connection.throttled_;
    nghttp2_session_set_stream_user_data(session, id, stream.get());
    connection.streams_.emplace(id, std::move(stream));
  } catch (const std::bad_alloc&) {
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;  // resets the stream
  }
  return 0;
}

int Callbacks::header(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
                      const uint8_t* value, size_t value_size, uint8_t, void* user) {
  Stream* stream = stream_of(session, frame->hd.stream_id);
  if (stream == nullptr || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
  const std::string_view key = text(name, name_size);
  const std::string_view found = text(value, value_size);
  if (key == ":path") {
    stream->path_ = found;
  } else if (key == ":method") {
    stream->http_method_ = found;
  } else if (key == "content-type") {
    stream->content_type_ = found;
  } else if (key == "grpc-timeout") {
    if (auto timeout = parse_timeout(found)) stream->deadline_ = self(user).deadline(*timeout);
  } else if (key == "grpc-encoding") {
    auto compression = parse_compression(found);
    stream->bad_encoding_ = !compression;
    if (compression) stream->reader_.set_compression(*compression);
  } else if (key == "traceparent") {
    stream->trace_parent_ = found;
  }
  return 0;
}

int Callbacks::data(nghttp2_session* session, uint8_t, int32_t id, const uint8_t* bytes, size_t size, void* user) {
  Connection& connection = self(user);
  nghttp2_session_consume_connection(session, size);
  Stream* stream = stream_of(session, id);
  if (stream == nullptr) return 0;
  if (stream->finished_) return 0;  // and the client gets no window for more
  return guarded([&] {
    take(connection, *stream, reinterpret_cast<const char*>(bytes), size);
    connection.consume(*stream, size);
  });
}

int Callbacks::received(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
  Connection& connection = self(user);
  if (frame->hd.type == NGHTTP2_SETTINGS) connection.settled_ = true;
  if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
  Stream* stream = stream_of(session, frame->hd.stream_id);
  if (stream == nullptr) return 0;
  return guarded([&] {
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) open(connection, *stream);
    if (ends_stream(frame)) end(connection, *stream);
  });
}

int Callbacks::sent(nghttp2_session* session, const nghttp2_frame* frame, void*) {
  if (frame->hd.type != NGHTTP2_HEADERS || !ends_stream(frame)) return 0;
  Stream* stream = stream_of(session, frame->hd.stream_id);
  // Answered before the request was whole: the rest of it is of no use.
  if (stream != nullptr && !stream->ended_) {
    nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
  }
  return 0;
}

int Callbacks::closed(nghttp2_session*, int32_t id, uint32_t, void* user) {
  Connection& connection = self(user);
  auto found = connection.streams_.find(id);
  if (found == connection.streams_.end()) return 0;
  std::erase(connection.touched_, found->second.get());
  connection.release(*found->second);
  connection.streams_.erase(found);
  return 0;
}

void Callbacks::open(Connection& connection, Stream& stream) {
  constexpr std::string_view kType = "application/grpc";
  if (stream.http_method_ != "POST") return connection.refuse_http(stream, "405");
  if (!stream.content_type_.starts_with(kType)) return connection.refuse_http(stream, "415");
  auto method = connection.methods_.find(stream.path_);
  if (method == connection.methods_.end()) {
    return connection.finish(stream, {grpc::StatusCode::UNIMPLEMENTED, "there is no method " + stream.path_});
  }
  if (stream.bad_encoding_) {
    return connection.finish(
        stream, {grpc::StatusCode::UNIMPLEMENTED, "grpc-encoding: unknown; expected one of " + std::string(kAccepted)});
  }
  stream.method_ = &method->second;
  if (stream.method_->streaming) {
    stream.begun_ = true;
    if (!stream.granted_) {
      Connection::Action grant;
      grant.stream = stream.shared_from_this();
      grant.grant = true;
      connection.apply(grant);
    }
    connection.add(stream, Connection::What::kOpen);
  }
}

void Callbacks::take(Connection& connection, Stream& stream, const char* bytes, size_t size) {
  std::string_view left(bytes, size);
  try {
    while (!left.empty() && !stream.finished_) {
      left.remove_prefix(stream.reader_.take(left));
      if (!stream.reader_.complete()) break;
      if (stream.message_bytes_ == 0) stream.message_bytes_ = stream.reader_.size();
      stream.ready_.push_back(stream.reader_.finish());
      if (!stream.method_->streaming && stream.delivered_) {
        throw grpc::Status(grpc::StatusCode::INTERNAL, "more than one message; the method takes one");
      }
      stream.begun_ = true;
      connection.deliver(stream);
    }
  } catch (const grpc::Status& status) {
    return connection.finish(stream, status);
  } catch (const std::bad_alloc&) {
    return connection.finish(
        stream, {grpc::StatusCode::RESOURCE_EXHAUSTED, "not enough memory for this request; send fewer candidates"});
  }
  if (!stream.touched_ && !stream.reader_.empty()) {
    stream.touched_ = true;
    connection.touched_.push_back(&stream);
  }
}

void Callbacks::end(Connection& connection, Stream& stream) {
  stream.ended_ = true;
  if (stream.finished_) return;
  if (!stream.reader_.empty()) {
    return connection.finish(stream, {grpc::StatusCode::INTERNAL, "the request ends within a message"});
  }
  if (!stream.method_->streaming && !stream.delivered_) {
    return connection.finish(stream, {grpc::StatusCode::INTERNAL, "the request has no message; the method takes one"});
  }
  connection.deliver(stream);
}

ssize_t Callbacks::read_answer(nghttp2_session*, int32_t, uint8_t* into, size_t size, uint32_t* flags,
                               nghttp2_data_source* source, void* user) {
  auto& stream = *static_cast<Stream*>(source->ptr);
  Connection& connection = self(user);
  size_t filled = 0;
  while (filled < size && !stream.out_.empty()) {
    const std::string& front = stream.out_.front();
    const size_t part = std::min(size - filled, front.size() - stream.out_sent_);
    std::memcpy(into + filled, front.data() + stream.out_sent_, part);
    filled += part;
    stream.out_sent_ += part;
    if (stream.out_sent_ < front.size()) break;
    stream.out_.pop_front();
    stream.out_sent_ = 0;
    if (stream.method_->streaming) connection.add(stream, Connection::What::kWritten);
  }
  if (stream.out_.empty() && stream.finished_) {
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    connection.submit_trailers(stream);
  } else if (filled == 0) {
    return NGHTTP2_ERR_DEFERRED;
  }
  return static_cast<ssize_t>(filled);
}

}  // namespace smt::server::rpc
