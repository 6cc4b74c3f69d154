#include <google/protobuf/arena.h>
#include <google/protobuf/stubs/logging.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include "infer_columns.h"
#include "infer_parameters.h"
#include "inference/grpc_service.pb.h"
#include "message_bytes.h"
#include "names.h"
#include "parse_message.h"
#include "predict_reader.h"
#include "rows.h"
#include "serving/server/byte_buffer.h"
#include "smt/v1/control.pb.h"
#include "smt/v1/prediction.pb.h"
#include "targets.h"
#include "wire_scan.h"

namespace smt::fuzz {
namespace {

using google::protobuf::Arena;
using server::PredictFields;

// As the server: messages that are not UTF-8 are answered, not printed.
[[maybe_unused]] const auto kQuiet = google::protobuf::SetLogHandler(nullptr);

// In slices of as many bytes as the first one says: requests come in pieces of any size.
grpc::ByteBuffer sliced(Bytes& bytes) {
  size_t slice = bytes.empty() ? 0 : bytes.front();
  if (!bytes.empty()) bytes = bytes.subspan(1);
  return server::in_slices(std::string(text(bytes)), slice == 0 ? bytes.size() + 1 : slice);
}

template <class Read>
void score(Bytes bytes, Read&& read) {
  Arena arena;
  grpc::ByteBuffer buffer = sliced(bytes);
  (void)server::look_at(buffer, arena);
  std::string_view message = server::in_one_piece(buffer, arena);
  require(message == text(bytes), "slices are put together");
  try {
    PredictFields fields = read(message, server::wire_limits(kMaxRows), arena);
    fields.check_values();
    make_rows(fields.rows, fields.context, fields.candidates);
  } catch (const transform::InputError& error) {
    require(server::shortened(error.what()).size() <= 1024, "messages to clients are short");
  }
}

template <class Message>
void parse(const grpc::ByteBuffer& buffer) {
  Message message;
  std::string error = server::parse_message(buffer, message);
  if (!error.empty()) return (void)server::shortened(error);
  require(message.IsInitialized(), "what was parsed is complete");
}

}  // namespace

void predict(Bytes bytes) { score(bytes, server::read_predict); }
void multi_predict(Bytes bytes) { score(bytes, server::read_multi_predict); }

void model_infer(Bytes bytes) {
  Arena arena;
  grpc::ByteBuffer buffer = sliced(bytes);
  auto* request = Arena::CreateMessage<inference::ModelInferRequest>(&arena);
  {
    grpc::ByteBuffer handle = buffer;
    grpc::ProtoBufferReader reader(&handle);
    if (!server::scan_infer_request(reader, server::wire_limits(kMaxRows)).empty()) return;
  }
  if (!server::parse_message(buffer, *request).empty()) return;
  try {
    server::InferParameters parameters = server::read_parameters(*request);
    server::InferColumns columns = server::view_inputs(*request, parameters.rows, kMaxRows, arena);
    make_rows(columns.rows, columns.context, columns.candidates);
  } catch (const transform::InputError& error) {
    require(server::shortened(error.what()).size() <= 1024, "messages to clients are short");
  }
}

void other_request(Bytes bytes) {
  if (bytes.empty()) return;
  uint8_t kind = bytes.front();
  bytes = bytes.subspan(1);
  grpc::ByteBuffer buffer = sliced(bytes);
  switch (kind % 8) {
    case 0:
      return parse<v1::GetScenarioRequest>(buffer);
    case 1:
      return parse<v1::ListScenariosRequest>(buffer);
    case 2:
      return parse<inference::ModelReadyRequest>(buffer);
    case 3:
      return parse<inference::ModelMetadataRequest>(buffer);
    case 4:
      return parse<inference::ModelStatisticsRequest>(buffer);
    case 5:
      return parse<inference::RepositoryIndexRequest>(buffer);
    case 6:
      return parse<inference::RepositoryModelLoadRequest>(buffer);
    default:
      return parse<inference::RepositoryModelUnloadRequest>(buffer);
  }
}

}  // namespace smt::fuzz
