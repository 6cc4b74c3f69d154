#include "wire_scan.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <algorithm>
#include <span>

#include "inference/grpc_service.pb.h"

namespace smt::server {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

// A message whose fields are counted, and those of its fields that hold other messages.
struct Shape {
  struct Field {
    int number;
    const Shape* inside;
    bool feature = false;  // counts as one
  };
  std::span<const Field> messages;
};

constexpr Shape kNumbers{};  // and strings, bytes

using Infer = inference::ModelInferRequest;
constexpr Shape::Field kEntryFields[]{{2, &kNumbers}};  // the value of an entry of a map
constexpr Shape kEntry{kEntryFields};
constexpr Shape::Field kInputFields[]{{Infer::InferInputTensor::kParametersFieldNumber, &kEntry},
                                      {Infer::InferInputTensor::kContentsFieldNumber, &kNumbers}};
constexpr Shape kInput{kInputFields};
constexpr Shape::Field kOutputFields[]{{Infer::InferRequestedOutputTensor::kParametersFieldNumber, &kEntry}};
constexpr Shape kOutput{kOutputFields};
constexpr Shape::Field kInferFields[]{{Infer::kParametersFieldNumber, &kEntry},
                                      {Infer::kInputsFieldNumber, &kInput, true},
                                      {Infer::kOutputsFieldNumber, &kOutput}};
constexpr Shape kInfer{kInferFields};

class Scan {
 public:
  Scan(CodedInputStream& input, const WireLimits& limits) : input_(input), limits_(limits) {}

  // The whole of it. False: stopped, and error() says why.
  bool message() { return message(kInfer); }
  const std::string& error() const { return error_; }

 private:
  bool message(const Shape& shape) {
    for (;;) {
      uint32_t tag = input_.ReadTag();
      if (tag == 0) return input_.ConsumedEntireMessage() || damaged();
      if (++fields_ > limits_.fields) return fail(too_many_fields(limits_));
      if (!field(shape, tag)) return false;
    }
  }

  bool field(const Shape& shape, uint32_t tag) {
    switch (WireFormatLite::GetTagWireType(tag)) {
      case WireFormatLite::WIRETYPE_VARINT: {
        uint64_t ignored = 0;
        return input_.ReadVarint64(&ignored) || damaged();
      }
      case WireFormatLite::WIRETYPE_FIXED64:
        return input_.Skip(8) || damaged();
      case WireFormatLite::WIRETYPE_FIXED32:
        return input_.Skip(4) || damaged();
      case WireFormatLite::WIRETYPE_LENGTH_DELIMITED:
        return delimited(shape, WireFormatLite::GetTagFieldNumber(tag));
      case WireFormatLite::WIRETYPE_START_GROUP:
      case WireFormatLite::WIRETYPE_END_GROUP:
        break;
    }
    return damaged();
  }

  bool delimited(const Shape& shape, int number) {
    int length = 0;
    if (!input_.ReadVarintSizeAsInt(&length)) return damaged();
    auto same = [&](const Shape::Field& field) { return field.number == number; };
    auto found = std::find_if(shape.messages.begin(), shape.messages.end(), same);
    if (found == shape.messages.end()) return input_.Skip(length) || damaged();
    if (found->feature && ++features_ > limits_.features) return fail(too_many_features(limits_, "inputs"));
    CodedInputStream::Limit outer = input_.PushLimit(length);
    if (!message(*found->inside)) return false;
    input_.PopLimit(outer);
    return true;
  }

  bool damaged() { return fail("the message is not a inference.ModelInferRequest: wire format damaged"); }

  bool fail(std::string error) {
    error_ = std::move(error);
    return false;
  }

  CodedInputStream& input_;
  const WireLimits limits_;
  int64_t fields_ = 0;
  int64_t features_ = 0;
  std::string error_;
};

}  // namespace

std::string scan_infer_request(google::protobuf::io::ZeroCopyInputStream& message, const WireLimits& limits) {
  CodedInputStream input(&message);
  Scan scan(input, limits);
  scan.message();
  return scan.error();
}

}  // namespace smt::server
