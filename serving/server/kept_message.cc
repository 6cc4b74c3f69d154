#include "kept_message.h"

#include <google/protobuf/arena.h>

#include <stdexcept>
#include <utility>
#include <vector>

#include "infer_columns.h"
#include "infer_parameters.h"
#include "inference/grpc_service.pb.h"
#include "message_bytes.h"
#include "parse_message.h"
#include "predict_reader.h"
#include "request_arena.h"
#include "wire_limits.h"

namespace smt::server {
namespace {

class KeptMessage final : public AnsweredRequest {
 public:
  KeptMessage(const grpc::ByteBuffer& message, MessageKind kind, int64_t max_rows)
      : message_(message), kind_(kind), max_rows_(max_rows) {}

  size_t bytes() const override { return message_.Length(); }

  RawRows decode() override {
    arena_ = std::make_unique<google::protobuf::Arena>(request_arena(message_.Length()));
    if (kind_ == MessageKind::kModelInfer) {
      infer();
    } else {
      predict();
    }
    return {.rows = rows_, .context = context_, .candidates = candidates_, .many = kind_ == MessageKind::kMultiPredict};
  }

 private:
  void predict() {
    const WireLimits limits = wire_limits(max_rows_);
    auto* const read = kind_ == MessageKind::kPredict ? read_predict : read_multi_predict;
    PredictFields fields = read(in_one_piece(message_, *arena_), limits, *arena_);
    rows_ = fields.rows;
    context_ = std::move(fields.context);
    candidates_ = std::move(fields.candidates);
  }

  void infer() {
    auto* request = google::protobuf::Arena::CreateMessage<inference::ModelInferRequest>(arena_.get());
    if (std::string error = parse_message(message_, *request); !error.empty()) throw std::runtime_error(error);
    InferColumns columns = view_inputs(*request, read_parameters(*request).rows, max_rows_, *arena_);
    rows_ = columns.rows;
    context_ = std::move(columns.context);
    candidates_ = std::move(columns.candidates);
  }

  const grpc::ByteBuffer message_;
  const MessageKind kind_;
  const int64_t max_rows_;
  std::unique_ptr<google::protobuf::Arena> arena_;  // of decode(): most requests are dropped without
  int64_t rows_ = 0;
  std::vector<transform::Column> context_;
  std::vector<transform::Column> candidates_;
};

}  // namespace

std::unique_ptr<AnsweredRequest> keep_message(const grpc::ByteBuffer& message, MessageKind kind, int64_t max_rows) {
  return std::make_unique<KeptMessage>(message, kind, max_rows);
}

}  // namespace smt::server
