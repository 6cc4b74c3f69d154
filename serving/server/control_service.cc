#include "control_service.h"

#include <grpcpp/impl/codegen/proto_utils.h>

#include "log.h"
#include "names.h"
#include "parse_message.h"
#include "scenario_message.h"

namespace smt::server {
namespace {

constexpr int kMostDrainSeconds = 3600;

template <typename Response>
grpc::Status serialised(const Response& response, grpc::ByteBuffer* out) {
  bool own_buffer = false;
  return grpc::SerializationTraits<Response>::Serialize(response, out, &own_buffer);
}

void fill(const ScenarioStatus& status, const Lifecycle& lifecycle, v1::ControlledScenario& out) {
  fill_status(status, lifecycle.of(status.scenario), *out.mutable_status());
  out.set_pinned(status.control.pinned);
  out.set_rollback_version(status.control.rollback_version);
}

grpc::Status invalid(const std::string& message) { return {grpc::StatusCode::INVALID_ARGUMENT, shortened(message)}; }

grpc::Status current_level(grpc::ByteBuffer* out) {
  v1::LogLevel level;
  level.set_level(std::string(log::level_name(log::level())));
  return serialised(level, out);
}

}  // namespace

template <typename Request, typename Handle>
grpc::ServerUnaryReactor* ControlServiceImpl::run(Context* context, const Bytes& bytes, const std::string& method,
                                                  Handle handle) {
  auto* call = new ControlCall(plane_, *context, method);
  if (!call->admitted()) return call;
  Request request;
  if (std::string error = parse_message(bytes, request); !error.empty()) {
    call->answer(invalid(error));
  } else {
    handle(*call, request);
  }
  return call;
}

std::function<grpc::Status()> ControlServiceImpl::shown(const std::string& scenario, Bytes* response) const {
  return [this, scenario, response] {
    v1::ControlledScenario out;
    if (auto status = state_.store.status(scenario)) fill(*status, state_.lifecycle, out);
    return serialised(out, response);
  };
}

grpc::ServerUnaryReactor* ControlServiceImpl::Load(Context* context, const Bytes* request, Bytes* response) {
  return run<v1::LoadRequest>(context, *request, "Load", [=, this](ControlCall& call, const v1::LoadRequest& in) {
    call.about(in.scenario(), in.version());
    call.command(CommandVerb::kLoad, shown(in.scenario(), response));
  });
}

grpc::ServerUnaryReactor* ControlServiceImpl::Unload(Context* context, const Bytes* request, Bytes* response) {
  return run<v1::UnloadRequest>(context, *request, "Unload", [=, this](ControlCall& call, const auto& in) {
    call.about(in.scenario());
    call.command(CommandVerb::kUnload, shown(in.scenario(), response));
  });
}

grpc::ServerUnaryReactor* ControlServiceImpl::Rollback(Context* context, const Bytes* request, Bytes* response) {
  return run<v1::RollbackRequest>(context, *request, "Rollback", [=, this](ControlCall& call, const auto& in) {
    call.about(in.scenario());
    call.command(CommandVerb::kRollback, shown(in.scenario(), response));
  });
}

grpc::ServerUnaryReactor* ControlServiceImpl::Unpin(Context* context, const Bytes* request, Bytes* response) {
  return run<v1::UnpinRequest>(context, *request, "Unpin", [=, this](ControlCall& call, const auto& in) {
    call.about(in.scenario());
    call.command(CommandVerb::kUnpin, shown(in.scenario(), response));
  });
}

grpc::ServerUnaryReactor* ControlServiceImpl::Status(Context* context, const Bytes* request, Bytes* response) {
  return run<v1::StatusRequest>(context, *request, "Status", [=, this](ControlCall& call, const auto& in) {
    call.about(in.scenario());
    v1::StatusResponse out;
    grpc::Status found = status(in.scenario(), out);
    call.answer(found.ok() ? serialised(out, response) : found);
  });
}

grpc::Status ControlServiceImpl::status(const std::string& scenario, v1::StatusResponse& response) const {
  bool ready = state_.ready.load(std::memory_order_relaxed);
  response.set_state(state_.gate.closed() ? "DRAINING" : ready ? "READY" : "LOADING");
  response.set_inflight(state_.gate.inside());
  response.set_log_level(std::string(log::level_name(log::level())));
  if (scenario.empty()) {
    for (const ScenarioStatus& status : state_.store.list()) {
      fill(status, state_.lifecycle, *response.add_scenarios());
    }
    return grpc::Status::OK;
  }
  auto status = state_.store.status(scenario);
  if (!status) {
    std::vector<std::string> names = state_.store.names();
    return {grpc::StatusCode::NOT_FOUND,
            shortened("scenario: " + quote(scenario) + " is unknown; nearest: " + joined(nearest(scenario, names)))};
  }
  fill(*status, state_.lifecycle, *response.add_scenarios());
  return grpc::Status::OK;
}

grpc::ServerUnaryReactor* ControlServiceImpl::Drain(Context* context, const Bytes* request, Bytes* response) {
  return run<v1::DrainRequest>(context, *request, "Drain", [=, this](ControlCall& call, const v1::DrainRequest& in) {
    std::optional<int> seconds;
    if (in.has_seconds()) {
      seconds = in.seconds();
      call.about("", std::to_string(*seconds));
      if (*seconds < 0 || *seconds > kMostDrainSeconds) {
        return call.answer(invalid("seconds: found " + std::to_string(*seconds) + "; expected 0..3600"));
      }
    }
    v1::DrainResponse out;
    out.set_inflight(state_.gate.inside());
    out.set_seconds(drain_(seconds));
    call.answer(serialised(out, response));
  });
}

grpc::ServerUnaryReactor* ControlServiceImpl::SetLogLevel(Context* context, const Bytes* request, Bytes* response) {
  return run<v1::SetLogLevelRequest>(context, *request, "SetLogLevel", [=](ControlCall& call, const auto& in) {
    call.about("", in.level());
    auto level = log::parse_level(in.level());
    if (!level) {
      return call.answer(
          invalid("level: found " + quote(shortened(in.level(), 80)) + "; expected debug, info, warn or error"));
    }
    log::set_level(*level);
    call.answer(current_level(response));
  });
}

grpc::ServerUnaryReactor* ControlServiceImpl::GetLogLevel(Context* context, const Bytes* request, Bytes* response) {
  return run<v1::GetLogLevelRequest>(context, *request, "GetLogLevel",
                                     [=](ControlCall& call, const auto&) { call.answer(current_level(response)); });
}

}  // namespace smt::server
