#include "unary_call.h"

#include <grpcpp/impl/codegen/proto_utils.h>

#include "names.h"

namespace smt::server {

void UnaryCall::send(google::protobuf::Message& message) noexcept {
  grpc::ByteBuffer bytes;
  bool own_buffer = false;
  grpc::Status status = grpc::SerializationTraits<google::protobuf::Message>::Serialize(message, &bytes, &own_buffer);
  const std::shared_ptr<UnaryCall> self = std::move(self_);
  if (status.ok()) return stream_->reply(std::move(bytes));
  stream_->finish(std::move(status));
}

void UnaryCall::send(const Failure& failure) noexcept {
  const std::shared_ptr<UnaryCall> self = std::move(self_);
  stream_->finish({status_code(failure.outcome), shortened(failure.message)}, failure.retry_after);
}

}  // namespace smt::server
