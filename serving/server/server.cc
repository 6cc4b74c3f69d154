#include "server.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "address.h"
#include "aoti_binary.h"
#include "connections.h"
#include "inference_service.h"
#include "log.h"
#include "process_metrics.h"
#include "reflection.h"

namespace smt::server {
namespace {

using Clock = std::chrono::steady_clock;

// Part of the drain that is kept for refusing what still waits and for sending the last answers.
constexpr std::chrono::milliseconds kFinish{500};
constexpr std::chrono::milliseconds kLook{1};
// How long a load waits at most, after each part of a file, for a worker to have nothing to do: where none ever has, it
// takes longer by this for each part, and still comes to its end.
constexpr std::chrono::milliseconds kPatience{1};

BinaryOpener aoti_opener(const Registry& registry, int workers) {
  // One instance per worker, one for the watcher's trial rows and one for shadows.
  return [registry, instances = static_cast<size_t>(workers) + 2](const std::filesystem::path& dir,
                                                                  BinaryManifest manifest) {
    return open_aoti_binary(dir, registry.shown(dir / "manifest.json"), std::move(manifest), instances);
  };
}

Scheduler::Limits scheduler_limits(const Options& options) {
  return {.workers = static_cast<size_t>(options.workers),
          .block_rows = options.block_rows,
          .queue_bytes = static_cast<size_t>(options.queue_bytes)};
}

RegistryWatcher::Rules watcher_rules(const Options& options) {
  return {.keep_warm = options.keep_warm,
          .memory_limit = options.memory_limit,
          .canary = options.canary,
          .shadows = options.shadow_queue_bytes > 0};
}

// Threads that read and write the data port's connections: fewer than compute, since a request's transport takes a
// small part of its compute.
size_t io_threads(int workers) { return static_cast<size_t>(std::clamp(workers / 2, 1, 16)); }

// Where /metrics listens. Debian's HTTP library is built without IPv6: the loopback and the wildcard address have an
// IPv4 form that means the same to a scraper on this machine or network.
std::string metrics_host(const std::string& host) {
  if (host == "::1") return "127.0.0.1";
  if (host == "::") return "0.0.0.0";
  return host;
}

}  // namespace

Server::Server(const Options& options, std::stop_source stop)
    : options_(options),
      stop_(std::move(stop)),
      lifecycle_([this](const Lifecycle::Step& step) { stepped(step); }),
      registry_(std::filesystem::absolute(options.registry).lexically_normal()),
      binaries_(registry_, aoti_opener(registry_, options.workers)),
      loader_(registry_, binaries_),
      watcher_(
          registry_,
          [this](const std::string& scenario, const std::string& version, const std::filesystem::path& folder,
                 TouchedFiles& touched, std::stop_token stop, const AdmitFunction& admit) {
            return loader_.load(scenario, version, folder, touched, std::move(stop), admit);
          },
          {.store = store_, .lifecycle = lifecycle_, .reaper = reaper_}, *this, watcher_rules(options)),
      scheduler_(
          scheduler_limits(options_),
          [this](const Scheduler::BlockReport& block) {
            metrics_.observe_block(block.rows, block.padding, block.expired_rows);
          },
          prepare_compute_thread),
      shadows_(scheduler_,
               {.queue_bytes = static_cast<size_t>(options_.shadow_queue_bytes), .max_rows = options_.max_rows},
               prepare_compute_thread),
      scheduling_(options_.scheduling),
      access_log_(options_.access_log),
      state_{.options = options_,
             .store = store_,
             .lifecycle = lifecycle_,
             .binaries = binaries_,
             .scheduler = scheduler_,
             .shadows = shadows_,
             .metrics = metrics_,
             .access_log = access_log_},
      prediction_(state_),
      inference_(state_) {
  read_scheduling();
  metrics_.set_kernels(options_.kernels);
  std::string host = numeric_host(options_.host, "--host");
  if (options_.tls.enabled()) tls_ = std::make_shared<TlsCredentials>(options_.tls, "--tls-");
  std::string http_host = metrics_host(numeric_host(options_.metrics_host, "--metrics-host"));
  check_listen("--metrics-port", http_host, options_.metrics_port);
  if (options_.control_port) {
    control_ = control_listener();
    control_->add(std::make_unique<InferenceServiceImpl>(inference_, control_->plane()));
  }
  collectable_ = metrics_.collectable([this](Metrics& metrics) {
    metrics.queue_depth().Set(static_cast<double>(scheduler_.waiting()));
    for (const Scheduler::Backlog& queue : scheduler_.backlogs()) {
      ScenarioMetrics& of = metrics.find(queue.scenario);
      of.queue_requests->Set(static_cast<double>(queue.requests));
      of.queue_rows->Set(static_cast<double>(queue.rows));
    }
    metrics.inflight().Set(static_cast<double>(state_.gate.inside()));
    metrics.resident_bytes().Set(static_cast<double>(lifecycle_.resident_bytes()));
    if (tls_) metrics.certificate_expiry("data").Set(static_cast<double>(tls_->not_after()));
    if (control_ && control_->tls()) {
      metrics.certificate_expiry("control").Set(static_cast<double>(control_->tls()->not_after()));
    }
  });
  try {
    exposer_ = std::make_unique<prometheus::Exposer>(host_port(http_host, options_.metrics_port));
  } catch (const std::exception& error) {
    cannot_listen("--metrics-port", http_host, options_.metrics_port, error.what());
  }
  exposer_->RegisterCollectable(collectable_);
  process_metrics_ = process_metrics();
  exposer_->RegisterCollectable(process_metrics_);
  metrics_port_ = exposer_->GetListeningPorts().at(0);

  prediction_.add_to(methods_);
  inference_.add_to(methods_);
  health_.add_to(methods_);
  add_reflection(methods_, {PredictionMethods::kService, InferenceMethods::kService, Health::kService});
  rpc::TlsSource tls;
  if (tls_) tls = [this] { return tls_->context(); };
  listener_ = std::make_unique<rpc::Listener>(
      rpc::Listener::Address{.flag = "--port", .host = host, .port = options_.port}, io_threads(options_.workers),
      methods_,
      rpc::ConnectionLimits{.message_bytes = static_cast<size_t>(options_.max_message_bytes),
                            .calls = static_cast<uint32_t>(options_.connection_calls)},
      std::move(tls), rpc::TurnHooks{.begin = Scheduler::begin_turns, .end = [this] { scheduler_.end_turn(); }});
  set_health("", false);
  if (control_) control_->start();
  listener_->start();
}

std::unique_ptr<ControlListener> Server::control_listener() {
  auto drain = [this](std::optional<int> seconds) {
    int undecided = kUndecided;
    if (!stop_.stop_requested()) drain_seconds_.compare_exchange_strong(undecided, seconds.value_or(drain_seconds()));
    stop_.request_stop();  // the main thread drains
    return drain_seconds();
  };
  return std::make_unique<ControlListener>(options_, watcher_.commands(), metrics_, state_, drain);
}

Server::~Server() {
  control_.reset();
  listener_.reset();
  watcher_.stop();
  shadows_.stop();
  scheduler_.stop();
}

void Server::load(std::stop_token stop) {
  prepare_compute_thread();  // this thread scores the trial rows of the first scan
  watcher_.scan(stop);
  if (stop.stop_requested()) return;
  loader_.keep_pace(options_.load_bytes_per_second,
                    [this](const std::stop_token& loading) { scheduler_.wait_idle(loading, kPatience); });
  state_.ready.store(true, std::memory_order_relaxed);
  set_health("", true);
  watcher_.start(std::chrono::milliseconds(options_.poll_ms), prepare_compute_thread);
}

int Server::drain_seconds() const {
  int decided = drain_seconds_.load();
  return decided == kUndecided ? options_.drain_seconds : decided;
}

void Server::drain(int seconds) {
  Clock::time_point begin = Clock::now();
  std::chrono::milliseconds allowed = std::chrono::seconds(seconds);
  Clock::time_point end = begin + allowed - std::min(kFinish, allowed / 4);
  health_.shut_down();  // every service NOT_SERVING, whatever is set later
  watcher_.request_stop();
  state_.gate.close();
  listener_->go_away();
  shadows_.stop();
  log::info("draining", {{"inflight", state_.gate.inside()}, {"seconds", seconds}});
  if (!state_.gate.wait_idle_until(end)) {
    log::warn("drain_timeout", {{"inflight", state_.gate.inside()}, {"waiting", scheduler_.waiting()}});
  }
  scheduler_.stop();  // what still waits is answered UNAVAILABLE, what runs is finished
  Clock::time_point last = Clock::now() + kFinish;
  bool answered = state_.gate.wait_idle_until(last);
  watcher_.stop();
  // Also to whoever asked for the drain.
  if (control_) control_->plane().gate.wait_idle_until(last);
  // The kernel has nothing to wait on for this, so look again until the answers have arrived.
  auto unsent = [&] {
    return listener_->unsent() + unacknowledged_bytes(port()) + (control_ ? unacknowledged_bytes(control_->port()) : 0);
  };
  while (unsent() > 0 && Clock::now() < last) std::this_thread::sleep_for(kLook);
  store_.clear();
  binaries_.prune();
  log::info("drained", {{"unanswered", answered ? 0 : state_.gate.inside()},
                        {"seconds", std::chrono::duration<double>(Clock::now() - begin).count()}});
}

void Server::set_health(const std::string& service, bool serving) { health_.set(service, serving); }

void Server::rolled_back(const std::string& scenario, AlarmCause cause) {
  metrics_.rollbacks(scenario, alarm_cause_name(cause)).Increment();
}

void Server::found(const std::string& scenario) {
  metrics_.add(scenario);
  for (AlarmCause cause : kAllAlarmCauses) metrics_.rollbacks(scenario, alarm_cause_name(cause));  // from 0 on
  set_health(scenario, false);
}

void Server::serving(const LoadedSnapshot& snapshot, bool fresh) {
  ScenarioMetrics& metrics = metrics_.add(snapshot.scenario);
  if (fresh) metrics.loads->Increment();
  metrics.weight_bytes->Set(static_cast<double>(snapshot.weight_bytes()));
  metrics.created->Set(snapshot.created);
  set_health(snapshot.scenario, true);
  count_scenarios();
}

void Server::stepped(const Lifecycle::Step& step) {
  metrics_.add(step.scenario).steps[static_cast<size_t>(step.version.state)]->Increment();
  log::info("version_state", {{"scenario", step.scenario},
                              {"version", step.version.version},
                              {"from", version_state_name(step.from)},
                              {"state", version_state_name(step.version.state)},
                              {"label", step.version.label},
                              {"bytes", step.version.bytes},
                              {"reason", step.version.reason}});
}

void Server::count_scenarios() {
  double serving = 0;
  for (const ScenarioStatus& status : store_.list()) serving += status.version.empty() ? 0 : 1;
  metrics_.scenarios().Set(serving);
}

void Server::refused(const std::string& scenario, Reason reason, bool serving) {
  metrics_.add(scenario).refused[static_cast<size_t>(reason)]->Increment();
  set_health(scenario, serving);
}

void Server::unloaded(const std::string& scenario) {
  metrics_.add(scenario).weight_bytes->Set(0);
  set_health(scenario, false);
  count_scenarios();
}

void Server::read_scheduling() {
  SchedulingConfig config = scheduling_.read();
  scheduler_.configure(std::move(config.scenarios), config.fallback);
}

void Server::scanned() {
  if (scheduling_.changed()) {
    try {
      read_scheduling();
      log::info("scheduling_changed", {{"file", options_.scheduling.string()}});
    } catch (const Refused& error) {
      log::error("scheduling_refused", {{"reason", error.what()}});  // what was granted before stays
    }
  }
  binaries_.prune();
}

}  // namespace smt::server
