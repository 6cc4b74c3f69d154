// The parameters of a ModelInferRequest.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>

#include "inference/grpc_service.pb.h"

namespace smt::server {

struct InferParameters {
  std::optional<int64_t> rows;                       // as sent, not checked
  std::optional<std::chrono::microseconds> timeout;  // above 0
  std::string_view request_key;                      // these two: views of the request
  std::string_view label;
};

// Of the request: `rows`, `timeout`, `request_key` and `label`. Throws transform::InputError for one of another type or
// without a meaning, and for parameters (also of inputs and requested outputs) that ask for what this server cannot do:
// sequences, shared memory, classification. Others are ignored: they are hints of HTTP clients and of other servers.
InferParameters read_parameters(const inference::ModelInferRequest& request);

}  // namespace smt::server
