// Methods that answer at once, from what is in memory.
#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include "names.h"
#include "parse_message.h"

namespace smt::server {

inline grpc::ServerUnaryReactor* answered(grpc::CallbackServerContext* context, const grpc::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(status);
  return reactor;
}

// The raw (ByteBuffer) form of such a method: `fill` makes the response, and its status. A message that does not parse
// is INVALID_ARGUMENT, as in Predict; gRPC's own path says UNIMPLEMENTED.
template <typename Request, typename Response, typename Fill>
grpc::Status run_raw(const grpc::ByteBuffer& in, grpc::ByteBuffer& out, Fill fill) {
  Request request;
  if (std::string error = parse_message(in, request); !error.empty()) {
    return {grpc::StatusCode::INVALID_ARGUMENT, shortened(error)};
  }
  Response response;
  grpc::Status status = fill(request, response);
  bool own_buffer = false;
  return status.ok() ? grpc::SerializationTraits<Response>::Serialize(response, &out, &own_buffer) : status;
}

template <typename Request, typename Response, typename Fill>
grpc::ServerUnaryReactor* answer(grpc::CallbackServerContext* context, const grpc::ByteBuffer& in,
                                 grpc::ByteBuffer& out, Fill fill) {
  return answered(context, run_raw<Request, Response>(in, out, fill));
}

}  // namespace smt::server
