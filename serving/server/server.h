// The server as a whole: owns every part, in the order in which they depend on each other.
#pragma once

#include <prometheus/exposer.h>

#include <atomic>
#include <memory>
#include <optional>
#include <stop_token>

#include "binary_cache.h"
#include "control_listener.h"
#include "health.h"
#include "inference_methods.h"
#include "lifecycle.h"
#include "metrics.h"
#include "options.h"
#include "reaper.h"
#include "registry_watcher.h"
#include "rpc/listener.h"
#include "scenario_store.h"
#include "scheduler.h"
#include "scheduling_config.h"
#include "server_state.h"
#include "service.h"
#include "shadow_scorer.h"
#include "snapshot_loader.h"
#include "tls_credentials.h"

namespace smt::server {

// Health: the service "" is SERVING from the end of the first pass over the registry until the drain begins. It says
// that this process accepts calls, whatever it has to serve: a scenario whose snapshots are all refused is the
// registry's fault, and restarting the process or moving its traffic would not help. Each scenario has a service of its
// name, which is SERVING while a version of it is.
//
// Use from one thread: construct, load(), then drain(drain_seconds()) once.
class Server : private WatchObserver {
 public:
  // Binds the ports; throws std::runtime_error that names the address and the reason, and Refused for a scheduling
  // file that is not well-formed. Answers, but is not ready: health says NOT_SERVING and Predict UNAVAILABLE.
  // `stop` is what the drain waits for: the control service requests it.
  Server(const Options& options, std::stop_source stop);
  ~Server() override;

  // Loads every scenario on this thread, then watches the registry on another and turns ready (health SERVING).
  // Returns early, not ready, when `stop` is requested.
  void load(std::stop_token stop);

  // Health NOT_SERVING, clients are told to take their next calls elsewhere (GOAWAY), those that come all the same are
  // UNAVAILABLE, and those in flight are waited for; shortly before `seconds` are over, what still waits for a worker
  // is answered UNAVAILABLE. When this returns every call has been answered, and the process is to end.
  void drain(int seconds);

  int port() const { return listener_->port(); }
  int metrics_port() const { return metrics_port_; }
  std::optional<int> control_port() const { return control_ ? std::optional(control_->port()) : std::nullopt; }
  // For drain(): what the control service was asked for, else that of the options. Thread-safe.
  int drain_seconds() const;

 private:
  // WatchObserver, on the thread that scans.
  void found(const std::string& scenario) override;
  void serving(const LoadedSnapshot& snapshot, bool fresh) override;
  void refused(const std::string& scenario, Reason reason, bool serving) override;
  void rolled_back(const std::string& scenario, AlarmCause cause) override;
  void unloaded(const std::string& scenario) override;
  void scanned() override;

  // Each step of a version's life: into the log and the metrics.
  void stepped(const Lifecycle::Step& step);
  // Reads the file of --scheduling if it changed. Throws Refused.
  void read_scheduling();
  std::unique_ptr<ControlListener> control_listener();  // not listening yet
  void set_health(const std::string& service, bool serving);
  void count_scenarios();

  const Options options_;
  std::stop_source stop_;
  static constexpr int kUndecided = -1;
  // Decided by the first control call that asks for a drain, if no signal has before. Guards no other memory.
  std::atomic<int> drain_seconds_{kUndecided};
  Metrics metrics_;
  Lifecycle lifecycle_;
  Reaper reaper_;
  ScenarioStore store_;
  Registry registry_;
  BinaryCache binaries_;
  SnapshotLoader loader_;
  RegistryWatcher watcher_;
  Scheduler scheduler_;
  ShadowScorer shadows_;
  SchedulingFile scheduling_;  // only the scanning thread touches it
  const AccessLog access_log_;
  ServerState state_;
  PredictionMethods prediction_;
  InferenceMethods inference_;
  Health health_;
  rpc::Methods methods_;                 // of the data port
  std::shared_ptr<TlsCredentials> tls_;  // null: no TLS
  std::shared_ptr<prometheus::Collectable> collectable_;
  std::shared_ptr<prometheus::Collectable> process_metrics_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  std::unique_ptr<ControlListener> control_;  // null: not asked for
  int metrics_port_ = 0;
  std::unique_ptr<rpc::Listener> listener_;  // the data port; calls of it use all of the above
};

}  // namespace smt::server
