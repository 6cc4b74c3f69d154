// An answered request as shadows get it: its bytes, decoded a second time once somebody has time for that.
//
// The bytes, and not what the call has decoded: that takes several times their memory.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <memory>

#include "shadow_scorer.h"

namespace smt::server {

enum class MessageKind { kPredict, kMultiPredict, kModelInfer };

// Shares the bytes of `message`, which was decoded before without an error. Throws std::bad_alloc.
std::unique_ptr<AnsweredRequest> keep_message(const grpc::ByteBuffer& message, MessageKind kind, int64_t max_rows);

}  // namespace smt::server
