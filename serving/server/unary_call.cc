#include "unary_call.h"

#include <grpcpp/impl/codegen/proto_utils.h>

#include "names.h"

namespace smt::server {
namespace {

// gRPC's retry design: clients with a retry policy wait so long before they try again.
constexpr const char* kPushback = "grpc-retry-pushback-ms";

}  // namespace

void UnaryCall::send(google::protobuf::Message& message) noexcept {
  bool own_buffer = false;
  Finish(grpc::SerializationTraits<google::protobuf::Message>::Serialize(message, &response_bytes_, &own_buffer));
}

void UnaryCall::send(const Failure& failure) noexcept {
  if (failure.retry_after.count() > 0) {
    server_context_.AddTrailingMetadata(kPushback, std::to_string(failure.retry_after.count()));
  }
  Finish(grpc::Status(status_code(failure.outcome), shortened(failure.message)));
}

}  // namespace smt::server
