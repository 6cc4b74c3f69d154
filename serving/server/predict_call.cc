#include "predict_call.h"

#include "predict_reader.h"
#include "scores_message.h"

namespace smt::server {

using google::protobuf::Arena;

PredictCall::PredictCall(ServerState& state, std::shared_ptr<rpc::Stream> stream)
    : UnaryCall(state, std::move(stream)), response_(Arena::CreateMessage<v1::PredictResponse>(&arena_)) {}

void PredictCall::decode() {
  PredictFields fields =
      read_predict(in_one_piece(request_bytes_, arena_), wire_limits(state_.options.max_rows), arena_);
  ScenarioFields& asked = fields.scenarios.front();
  Target& target = add_target();
  target.scenario = asked.scenario;
  target.version = asked.version;
  target.label = asked.label;
  target.tasks = std::move(asked.tasks);
  request_id_ = fields.request_id;
  request_key_ = fields.request_key;
  rows_ = fields.rows;
  context_ = std::move(fields.context);
  candidates_ = std::move(fields.candidates);
  count_memory();
  fields.check_values();
}

void PredictCall::respond() noexcept {
  Target& target = *targets().front();
  if (!target.failure) {
    response_->set_version(target.snapshot->version);
    response_->set_request_id(std::string(request_id_));
    fill_scores(target, *response_->mutable_tasks());
    fill_timings(target, arrived_, *response_->mutable_timings());
  }
  account(target);
  if (target.failure) return send(*target.failure);
  send(*response_);
}

}  // namespace smt::server
