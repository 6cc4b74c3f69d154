#include "infer_call.h"

#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>

#include "infer_columns.h"
#include "infer_parameters.h"
#include "infer_stream.h"
#include "parse_message.h"
#include "unary_call.h"
#include "wire_scan.h"

namespace smt::server {
namespace {

// Smaller messages are parsed without a scan: what they can grow to does not matter.
constexpr size_t kScanAbove = size_t{64} << 10;

// Longer than any deadline that is kept to; adding it to a time does not overflow.
constexpr std::chrono::hours kLongest{24 * 365};

}  // namespace

template <class Transport>
void InferCall<Transport>::decode() {
  parse();
  this->request_id_ = request_->id();
  Target& target = this->add_target();
  target.names = {.scenario = "model_name", .version = "model_version", .tasks = "outputs"};
  target.scenario = request_->model_name();
  target.version = request_->model_version();
  for (const auto& output : request_->outputs()) target.tasks.emplace_back(output.name());

  try {
    read_inputs();
  } catch (const transform::InputError&) {
    // Inputs that are wrong for a model that there is not: the model is what the client has to hear of.
    if (this->state_.store.find(target.scenario) != nullptr) throw;
  }
  this->count_memory();
}

template <class Transport>
void InferCall<Transport>::parse() {
  std::string error;
  if (this->request_bytes_.Length() > kScanAbove) {
    grpc::ByteBuffer bytes = this->request_bytes_;  // shares the slices; reading consumes the handle
    grpc::ProtoBufferReader reader(&bytes);
    error = scan_infer_request(reader, wire_limits(this->state_.options.max_rows));
  }
  if (error.empty()) error = parse_message(this->request_bytes_, *request_);
  if (!error.empty()) throw Failure{Outcome::kInvalidArgument, error};
}

template <class Transport>
void InferCall<Transport>::read_inputs() {
  const InferParameters parameters = read_parameters(*request_);
  if (parameters.timeout && *parameters.timeout < kLongest) {
    this->deadline_ = std::min(this->deadline_, this->arrived_ + *parameters.timeout);
  }
  this->request_key_ = parameters.request_key;
  this->targets().front()->label = parameters.label;
  InferColumns columns = view_inputs(*request_, parameters.rows, this->state_.options.max_rows, this->arena_);
  this->rows_ = columns.rows;
  this->context_ = std::move(columns.context);
  this->candidates_ = std::move(columns.candidates);
}

template <class Transport>
void InferCall<Transport>::respond() noexcept {
  Target& target = *this->targets().front();
  if (!target.failure) encode(target);
  this->account(target);
  if (target.failure) return this->send(*target.failure);
  this->send(*response_);
}

// Sets target.failure when a score is not finite.
template <class Transport>
void InferCall<Transport>::encode(Target& target) {
  response_->set_model_name(target.snapshot->scenario);
  response_->set_model_version(target.snapshot->version);
  response_->set_id(std::string(this->request_id_));
  for (const Task* head : target.heads) {
    auto& output = *response_->add_outputs();
    output.set_name(head->name);
    output.set_datatype("FP32");
    output.add_shape(target.rows);
    std::string& values = *response_->add_raw_output_contents();
    values.resize(static_cast<size_t>(target.rows) * sizeof(float));
    if (!target.column(*head, reinterpret_cast<float*>(values.data()))) return;
  }
}

template class InferCall<UnaryCall>;
template class InferCall<StreamedCall>;

}  // namespace smt::server
