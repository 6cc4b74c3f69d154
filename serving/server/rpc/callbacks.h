// What nghttp2 calls while it takes or makes bytes; all of it under the connection's mutex.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstddef>
#include <cstdint>

namespace smt::server::rpc {

class Connection;
class Stream;

struct Callbacks {
  static const nghttp2_session_callbacks* all();
  static const nghttp2_option* options();

  // The source of an answer's messages; its pointer is the Stream.
  static ssize_t read_answer(nghttp2_session* session, int32_t id, uint8_t* into, size_t size, uint32_t* flags,
                             nghttp2_data_source* source, void* user);

 private:
  static int begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user);
  static int header(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
                    const uint8_t* value, size_t value_size, uint8_t flags, void* user);
  static int data(nghttp2_session* session, uint8_t flags, int32_t id, const uint8_t* bytes, size_t size, void* user);
  static int received(nghttp2_session* session, const nghttp2_frame* frame, void* user);
  static int sent(nghttp2_session* session, const nghttp2_frame* frame, void* user);
  static int closed(nghttp2_session* session, int32_t id, uint32_t code, void* user);

  static void open(Connection& connection, Stream& stream);
  static void take(Connection& connection, Stream& stream, const char* bytes, size_t size);
  static void end(Connection& connection, Stream& stream);
};

}  // namespace smt::server::rpc
