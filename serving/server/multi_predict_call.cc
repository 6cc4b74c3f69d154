#include "multi_predict_call.h"

#include "names.h"
#include "scores_message.h"
#include "wire_scan.h"

namespace smt::server {
namespace {

using google::protobuf::Arena;

constexpr int kMaxScenarios = 64;

}  // namespace

MultiPredictCall::MultiPredictCall(ServerState& state, grpc::CallbackServerContext& context,
                                   const grpc::ByteBuffer& request, grpc::ByteBuffer& response)
    : UnaryCall(state, context, request, response),
      request_(Arena::CreateMessage<v1::MultiPredictRequest>(&arena_)),
      response_(Arena::CreateMessage<v1::MultiPredictResponse>(&arena_)) {}

void MultiPredictCall::decode() {
  many_ = true;
  scan(RequestKind::kMultiPredict);
  parse(*request_);
  request_id_ = request_->request_id();
  rows_ = request_->rows();
  if (request_->scenarios_size() < 1 || request_->scenarios_size() > kMaxScenarios) {
    throw Failure{Outcome::kInvalidArgument, "scenarios: " + std::to_string(request_->scenarios_size()) +
                                                 " entries; expected 1.." + std::to_string(kMaxScenarios)};
  }
  for (int i = 0; i < request_->scenarios_size(); ++i) {
    const v1::ScenarioRequest& asked = request_->scenarios(i);
    for (const auto& before : targets()) {
      if (before->scenario != asked.scenario()) continue;
      throw Failure{Outcome::kInvalidArgument, "scenarios[" + std::to_string(i) + "].scenario: " +
                                                   quote(asked.scenario()) + " occurs twice; expected each once"};
    }
    Target& target = add_target();
    target.scenario = asked.scenario();
    target.version = asked.version();
    target.label = asked.label();
    target.tasks.assign(asked.tasks().begin(), asked.tasks().end());
    target.where = "scenarios[" + std::to_string(i) + "].";
  }
  columns_.view(request_->context(), request_->candidates(), context_, candidates_);
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
