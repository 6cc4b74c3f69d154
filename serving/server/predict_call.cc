#include "predict_call.h"

#include "scores_message.h"

namespace smt::server {

using google::protobuf::Arena;

PredictCall::PredictCall(ServerState& state, grpc::CallbackServerContext& context, const grpc::ByteBuffer& request,
                         grpc::ByteBuffer& response)
    : UnaryCall(state, context, request, response),
      request_(Arena::CreateMessage<v1::PredictRequest>(&arena_)),
      response_(Arena::CreateMessage<v1::PredictResponse>(&arena_)) {}

void PredictCall::decode() {
  scan(RequestKind::kPredict);
  parse(*request_);
  request_id_ = request_->request_id();
  rows_ = request_->rows();
  Target& target = add_target();
  target.scenario = request_->scenario();
  target.version = request_->version();
  target.label = request_->label();
  target.tasks.assign(request_->tasks().begin(), request_->tasks().end());
  columns_.view(request_->context(), request_->candidates(), context_, candidates_);
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
