// One input tensor of a ModelInferRequest: what it declares, checked against what was sent, as values of a column.
#pragma once

#include <google/protobuf/arena.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "inference/grpc_service.pb.h"
#include "transform.h"

namespace smt::server {

using InferInput = inference::ModelInferRequest::InferInputTensor;

// A tensor whose datatype, shape and contents agree: made before any value is read.
struct InferTensor {
  const InferInput* input = nullptr;
  int index = 0;                     // in the request's inputs
  const std::string* raw = nullptr;  // its entry of raw_input_contents; null: the values are in input->contents()
  int64_t rows = 0;                  // shape[0]
  int64_t width = 1;                 // values per row: shape[1], or 1 where the shape has one dimension
  bool flat = true;                  // the shape has one dimension

  std::string place() const;  // "inputs[2] 'city'", how messages name it
  int64_t count() const { return rows * width; }
};

// Every function throws transform::InputError, which names the place, what was found and what is expected.

// The tensor of inputs[index]; `request` must outlive it. Refuses datatypes that there are not, shapes other than
// [rows] and [rows, width] or with negative or absurd dimensions, contents of another number or type of values or
// bytes, and values that are elsewhere (shared memory).
InferTensor check_tensor(const inference::ModelInferRequest& request, int index);

using InferValues = decltype(transform::Column::values);

// The values: FP32, FP64 and INT64 as they lie in the request, BYTES as views into it, other integers and BOOL widened
// into memory of `arena`. Refuses UINT64 above the range of int64, BOOL other than 0 and 1, typed INT8, INT16, UINT8
// and UINT16 out of range, and BYTES that are not UTF-8: no text that was trained with, nor a request of smt.v1, holds
// any.
InferValues read_values(const InferTensor& tensor, google::protobuf::Arena& arena);

// The values of an INT32 tensor, as they lie in the request where that is possible.
std::span<const int32_t> read_lengths(const InferTensor& tensor, google::protobuf::Arena& arena);

}  // namespace smt::server
