#include "multi_predict_call.h"

#include "message_bytes.h"
#include "names.h"
#include "predict_reader.h"
#include "scores_message.h"

namespace smt::server {

using google::protobuf::Arena;

MultiPredictCall::MultiPredictCall(ServerState& state, std::shared_ptr<rpc::Stream> stream)
    : UnaryCall(state, std::move(stream)), response_(Arena::CreateMessage<v1::MultiPredictResponse>(&arena_)) {}

void MultiPredictCall::decode() {
  many_ = true;
  PredictFields fields =
      read_multi_predict(in_one_piece(request_bytes_, arena_), wire_limits(state_.options.max_rows), arena_);
  request_id_ = fields.request_id;
  request_key_ = fields.request_key;
  rows_ = fields.rows;
  if (rows_ < 1 || rows_ > state_.options.max_rows) {  // here: it is no scenario's fault
    throw Failure{Outcome::kInvalidArgument,
                  "rows: " + std::to_string(rows_) + "; expected 1.." + std::to_string(state_.options.max_rows)};
  }
  if (fields.scenarios.empty()) {
    throw Failure{Outcome::kInvalidArgument, "scenarios: none; expected 1.." + std::to_string(kMaxScenarios)};
  }
  for (ScenarioFields& asked : fields.scenarios) {
    const std::string where = "scenarios[" + std::to_string(targets().size()) + "].";
    for (const auto& before : targets()) {
      if (before->scenario != asked.scenario) continue;
      throw Failure{Outcome::kInvalidArgument,
                    where + "scenario: " + quote(asked.scenario) + " occurs twice; expected each once"};
    }
    Target& target = add_target();
    target.scenario = asked.scenario;
    target.version = asked.version;
    target.label = asked.label;
    target.tasks = std::move(asked.tasks);
    target.where = where;
  }
  context_ = std::move(fields.context);
  candidates_ = std::move(fields.candidates);
  count_memory();
  fields.check_values();
}

void MultiPredictCall::respond() noexcept {
  response_->set_request_id(std::string(request_id_));
  for (const auto& target : targets()) {
    v1::ScenarioScores* out = response_->add_scenarios();
    out->set_scenario(std::string(target->scenario));
    if (!target->failure) fill_scores(*target, *out->mutable_tasks());
    account(*target);
    if (target->failure) {
      out->clear_tasks();
      out->set_code(static_cast<int32_t>(status_code(target->failure->outcome)));
      out->set_message(shortened(target->failure->message));
      out->set_retry_after_ms(target->failure->retry_after.count());
      continue;
    }
    out->set_version(target->snapshot->version);
    fill_timings(*target, arrived_, *out->mutable_timings());
  }
  send(*response_);
}

}  // namespace smt::server
