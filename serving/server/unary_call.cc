#include "unary_call.h"

#include "answer.h"
#include "names.h"

namespace smt::server {

void UnaryCall::send(google::protobuf::Message& message) noexcept {
  const std::shared_ptr<UnaryCall> self = std::move(self_);
  stream_->reply(framed(message));
}

void UnaryCall::send(const Failure& failure) noexcept {
  const std::shared_ptr<UnaryCall> self = std::move(self_);
  stream_->finish({status_code(failure.outcome), shortened(failure.message)}, failure.retry_after);
}

}  // namespace smt::server
