// smt.v1.PredictionService/Predict.
#pragma once

#include "message_bytes.h"
#include "smt/v1/prediction.pb.h"
#include "unary_call.h"

namespace smt::server {

class PredictCall final : public UnaryCall {
 public:
  PredictCall(ServerState& state, std::shared_ptr<rpc::Stream> stream);

 private:
  Beginning peek() override { return look_at(request_bytes_, arena_); }
  MessageKind kind() const override { return MessageKind::kPredict; }
  void decode() override;
  void respond() noexcept override;

  v1::PredictResponse* response_;  // on arena_
};

}  // namespace smt::server
