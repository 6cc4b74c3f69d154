// smt.v1.ControlService. Proto-facing: includes no torch header.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <optional>
#include <string>

#include "control_call.h"
#include "server_state.h"
#include "smt/v1/control.grpc.pb.h"

namespace smt::server {

// Begins the drain unless it has begun, with this many seconds or those of the options; returns how many it is.
using DrainFunction = std::function<int(std::optional<int> seconds)>;

// Thread-safe, as gRPC calls it from many threads. What concerns scenarios is done by the registry's thread, the rest
// at once. All methods in the raw (ByteBuffer) form, so that the caller is authenticated before the message is parsed,
// and one that does not parse is INVALID_ARGUMENT.
class ControlServiceImpl final
    : public v1::ControlService::WithRawCallbackMethod_Load<
          v1::ControlService::WithRawCallbackMethod_Unload<v1::ControlService::WithRawCallbackMethod_Rollback<
              v1::ControlService::WithRawCallbackMethod_Unpin<v1::ControlService::WithRawCallbackMethod_Status<
                  v1::ControlService::WithRawCallbackMethod_Drain<v1::ControlService::WithRawCallbackMethod_SetLogLevel<
                      v1::ControlService::WithRawCallbackMethod_GetLogLevel<v1::ControlService::Service>>>>>>>> {
 public:
  // `plane` and `state` outlive every call. `drain` is thread-safe and returns at once.
  ControlServiceImpl(ControlPlane& plane, const ServerState& state, DrainFunction drain)
      : plane_(plane), state_(state), drain_(std::move(drain)) {}

  using Reactor = grpc::ServerUnaryReactor;
  using Context = grpc::CallbackServerContext;
  using Bytes = grpc::ByteBuffer;
  Reactor* Load(Context* context, const Bytes* request, Bytes* response) override;
  Reactor* Unload(Context* context, const Bytes* request, Bytes* response) override;
  Reactor* Rollback(Context* context, const Bytes* request, Bytes* response) override;
  Reactor* Unpin(Context* context, const Bytes* request, Bytes* response) override;
  Reactor* Status(Context* context, const Bytes* request, Bytes* response) override;
  Reactor* Drain(Context* context, const Bytes* request, Bytes* response) override;
  Reactor* SetLogLevel(Context* context, const Bytes* request, Bytes* response) override;
  Reactor* GetLogLevel(Context* context, const Bytes* request, Bytes* response) override;

 private:
  // Makes the call, and hands its request to `handle(call, request)` if the caller may and it parses.
  template <typename Request, typename Handle>
  Reactor* run(Context* context, const Bytes& bytes, const std::string& method, Handle handle);
  // The response of the calls that change one scenario.
  std::function<grpc::Status()> shown(const std::string& scenario, Bytes* response) const;
  grpc::Status status(const std::string& scenario, v1::StatusResponse& response) const;

  ControlPlane& plane_;
  const ServerState& state_;
  const DrainFunction drain_;
};

}  // namespace smt::server
