#include "wire_scan.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <algorithm>

#include "smt/v1/prediction.pb.h"

namespace smt::server {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr int64_t kMaxFeatures = 4096;
constexpr int64_t kFieldsPerRow = 256;
constexpr int64_t kFewestRows = 4096;  // a small --max-rows does not forbid a few rows with long lists

// Which message the bytes are of: what its length-delimited fields hold follows from that.
enum class Level { kRequest, kFeature, kValues };

class Scan {
 public:
  Scan(CodedInputStream& input, const WireLimits& limits) : input_(input), limits_(limits) {}

  // False: stopped, and error() says why.
  bool message(Level level) {
    for (;;) {
      uint32_t tag = input_.ReadTag();
      if (tag == 0) return input_.ConsumedEntireMessage() || fail(kDamaged);
      if (++fields_ > limits_.fields) {
        return fail("the message has more than " + std::to_string(limits_.fields) +
                    " fields, the server's max_fields (each string of a list is one, a packed list of numbers one in "
                    "all); send fewer candidates");
      }
      if (!field(level, tag)) return false;
    }
  }
  const std::string& error() const { return error_; }

 private:
  static constexpr const char* kDamaged = "the message is not a smt.v1.PredictRequest: wire format damaged";

  bool field(Level level, uint32_t tag) {
    switch (WireFormatLite::GetTagWireType(tag)) {
      case WireFormatLite::WIRETYPE_VARINT: {
        uint64_t ignored = 0;
        return input_.ReadVarint64(&ignored) || fail(kDamaged);
      }
      case WireFormatLite::WIRETYPE_FIXED64:
        return input_.Skip(8) || fail(kDamaged);
      case WireFormatLite::WIRETYPE_FIXED32:
        return input_.Skip(4) || fail(kDamaged);
      case WireFormatLite::WIRETYPE_LENGTH_DELIMITED:
        return delimited(level, WireFormatLite::GetTagFieldNumber(tag));
      case WireFormatLite::WIRETYPE_START_GROUP:
      case WireFormatLite::WIRETYPE_END_GROUP:
        break;
    }
    return fail(kDamaged);
  }

  bool delimited(Level level, int number) {
    int length = 0;
    if (!input_.ReadVarintSizeAsInt(&length)) return fail(kDamaged);
    if (level == Level::kRequest &&
        (number == v1::PredictRequest::kContextFieldNumber || number == v1::PredictRequest::kCandidatesFieldNumber)) {
      if (++features_ > limits_.features) {
        return fail("context and candidates: more than " + std::to_string(limits_.features) +
                    " features; expected each of the scenario's inputs once");
      }
      return inside(Level::kFeature, length);
    }
    if (level == Level::kFeature && number >= v1::Feature::kFloatsFieldNumber &&
        number <= v1::Feature::kStringsFieldNumber) {
      return inside(Level::kValues, length);
    }
    return input_.Skip(length) || fail(kDamaged);
  }

  bool inside(Level level, int length) {
    CodedInputStream::Limit outer = input_.PushLimit(length);
    if (!message(level)) return false;
    input_.PopLimit(outer);
    return true;
  }

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

WireLimits wire_limits(int64_t max_rows) {
  return {.features = kMaxFeatures, .fields = kFieldsPerRow * std::max(max_rows, kFewestRows)};
}

std::string scan_request(google::protobuf::io::ZeroCopyInputStream& message, const WireLimits& limits) {
  CodedInputStream input(&message);
  Scan scan(input, limits);
  scan.message(Level::kRequest);
  return scan.error();
}

}  // namespace smt::server
