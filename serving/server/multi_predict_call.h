// smt.v1.PredictionService/MultiPredict.
#pragma once

#include "smt/v1/prediction.pb.h"
#include "unary_call.h"

namespace smt::server {

class MultiPredictCall final : public UnaryCall {
 public:
  MultiPredictCall(ServerState& state, std::shared_ptr<rpc::Stream> stream);

 private:
  MessageKind kind() const override { return MessageKind::kMultiPredict; }
  void decode() override;
  void respond() noexcept override;

  v1::MultiPredictResponse* response_;  // on arena_
};

}  // namespace smt::server
