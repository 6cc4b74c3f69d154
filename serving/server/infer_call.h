// inference.GRPCInferenceService/ModelInfer, and each request of a ModelStreamInfer.
#pragma once

#include "inference/grpc_service.pb.h"
#include "message_bytes.h"
#include "message_call.h"

namespace smt::server {

// Transport: UnaryCall or StreamedCall, whose constructors it has; they answer each in their way.
template <class Transport>
class InferCall final : public Transport {
 public:
  using Transport::Transport;

 private:
  using Arena = google::protobuf::Arena;

  Beginning peek() override { return look_at(this->request_bytes_, this->arena_); }
  MessageKind kind() const override { return MessageKind::kModelInfer; }
  void decode() override;
  void respond() noexcept override;
  void parse();        // throws Failure
  void read_inputs();  // throws transform::InputError
  void encode(Target& target);

  inference::ModelInferRequest* const request_ = Arena::CreateMessage<inference::ModelInferRequest>(&this->arena_);
  inference::ModelInferResponse* const response_ = Arena::CreateMessage<inference::ModelInferResponse>(&this->arena_);
};

}  // namespace smt::server
