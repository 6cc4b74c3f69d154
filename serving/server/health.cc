#include "health.h"

#include <utility>
#include <vector>

#include "answer.h"
#include "grpc/health/v1/health.pb.h"

namespace smt::server {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// One call of Watch: sends a status, and then the newest one whenever it is another one. Known to Health from its
// message to its end.
class Health::Watch final : public rpc::Handler, public std::enable_shared_from_this<Watch> {
 public:
  Watch(Health& health, std::shared_ptr<rpc::Stream> stream) : health_(health), stream_(std::move(stream)) {}

  void message(grpc::ByteBuffer bytes) override {
    HealthCheckRequest request;
    if (std::string error = parse_message(bytes, request); !error.empty()) {
      return stream_->finish({grpc::StatusCode::INVALID_ARGUMENT, shortened(error)});
    }
    State state;
    {
      std::lock_guard lock(health_.mutex_);
      service_ = request.service();
      health_.watches_[service_].insert(shared_from_this());
      state = health_.state(service_);
    }
    tell(state);
  }

  void ended() override {}  // of requests; the answers go on

  void written(bool sent) override {
    bool again = false;
    State state;
    {
      std::lock_guard lock(mutex_);
      writing_ = false;
      state = wanted_;
      again = sent && wanted_ != told_;
    }
    if (again) tell(state);
  }

  void cancelled() override {
    std::lock_guard lock(health_.mutex_);
    auto found = health_.watches_.find(service_);
    if (found == health_.watches_.end()) return;
    found->second.erase(shared_from_this());
    if (found->second.empty()) health_.watches_.erase(found);
  }

  void tell(State state) {
    {
      std::lock_guard lock(mutex_);
      wanted_ = state;
      if (writing_ || (told_any_ && told_ == state)) return;
      writing_ = told_any_ = true;
      told_ = state;
    }
    HealthCheckResponse response;
    response.set_status(state == State::kUnknown   ? HealthCheckResponse::SERVICE_UNKNOWN
                        : state == State::kServing ? HealthCheckResponse::SERVING
                                                   : HealthCheckResponse::NOT_SERVING);
    stream_->write(framed(response));
  }

 private:
  Health& health_;
  const std::shared_ptr<rpc::Stream> stream_;
  std::string service_;  // guarded by health_.mutex_

  std::mutex mutex_;  // guards all below
  State wanted_ = State::kUnknown;
  State told_ = State::kUnknown;
  bool told_any_ = false;
  bool writing_ = false;
};

void Health::add_to(rpc::Methods& methods) {
  const std::string path = std::string("/") + kService + "/";
  methods[path + "Check"] = answering<HealthCheckRequest, HealthCheckResponse>(
      [this](const HealthCheckRequest& request, HealthCheckResponse& response) -> grpc::Status {
        std::lock_guard lock(mutex_);
        const State found = state(request.service());
        if (found == State::kUnknown) return {grpc::StatusCode::NOT_FOUND, "service name unknown"};
        response.set_status(found == State::kServing ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING);
        return grpc::Status::OK;
      });
  methods[path + "Watch"] = {.streaming = true, .open = [this](const std::shared_ptr<rpc::Stream>& stream) {
                               auto watch = std::make_shared<Watch>(*this, stream);
                               stream->read();
                               return watch;
                             }};
}

void Health::set(const std::string& service, bool serving) {
  std::vector<std::shared_ptr<Watch>> watches;
  State now;
  {
    std::lock_guard lock(mutex_);
    states_[service] = serving && !down_ ? State::kServing : State::kNotServing;
    now = states_[service];
    if (auto found = watches_.find(service); found != watches_.end()) {
      watches.assign(found->second.begin(), found->second.end());
    }
  }
  for (const auto& watch : watches) watch->tell(now);
}

void Health::shut_down() {
  std::vector<std::string> services;
  {
    std::lock_guard lock(mutex_);
    down_ = true;
    for (const auto& [service, state] : states_) services.push_back(service);
  }
  for (const std::string& service : services) set(service, false);
}

Health::State Health::state(const std::string& service) const {
  auto found = states_.find(service);
  return found == states_.end() ? State::kUnknown : found->second;
}

}  // namespace smt::server
