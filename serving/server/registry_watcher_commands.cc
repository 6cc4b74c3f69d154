// The commands of operators, done by the thread that scans. See registry_commands.h for what each means.
#include <utility>

#include "log.h"
#include "names.h"
#include "registry_watcher.h"

namespace smt::server {
namespace {

CommandOutcome failed(CommandCode code, std::string message) { return {code, std::move(message)}; }

CommandOutcome gave_up(const std::stop_token& server_stops) {
  if (server_stops.stop_requested()) return failed(CommandCode::kUnavailable, "the server is draining");
  return failed(CommandCode::kCancelled,
                "given up, nothing was changed: the call was cancelled or its deadline passed");
}

}  // namespace

void RegistryWatcher::run_commands(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    std::optional<Command> command = commands_.take();
    if (!command) return;
    CommandOutcome outcome = execute(*command, stop);
    command->done(outcome);
  }
}

CommandOutcome RegistryWatcher::execute(const Command& command, const std::stop_token& stop) {
  const std::string& name = command.scenario;
  if (!valid_name(name)) {
    return failed(CommandCode::kInvalidArgument,
                  "scenario: found " + quote(shortened(name, 80)) + "; expected 1..64 characters a-z 0-9 _ -");
  }
  if (!command.version.empty() && !valid_version(command.version)) {
    return failed(CommandCode::kInvalidArgument, "version: found " + quote(shortened(command.version, 80)) +
                                                     "; expected 1..64 characters A-Z a-z 0-9 _ -");
  }
  if (!scenarios_.contains(name) && !registry_.has(name)) {
    std::vector<std::string> names = store_.names();
    return failed(CommandCode::kNotFound,
                  "scenario: " + quote(name) + " is not in the registry; nearest: " + joined(nearest(name, names)));
  }
  // A load ends early when the server stops and when nobody waits for it any more.
  std::stop_source either;
  std::stop_callback on_stop(stop, [&] { either.request_stop(); });
  std::stop_callback on_abandoned(command.abandoned, [&] { either.request_stop(); });
  if (either.stop_requested()) return gave_up(stop);
  CommandOutcome outcome;
  switch (command.verb) {
    case CommandVerb::kLoad:
      outcome = command.version.empty() ? follow(name, either.get_token())
                                        : load_version(name, command.version, either.get_token());
      break;
    case CommandVerb::kUnload:
      outcome = unload(name);
      break;
    case CommandVerb::kRollback:
      outcome = rollback(name, either.get_token());
      break;
    case CommandVerb::kUnpin:
      outcome = known(name).unloaded
                    ? failed(CommandCode::kFailedPrecondition,
                             "scenario " + quote(name) + " is unloaded, so nothing is pinned; Load serves it again")
                    : follow(name, either.get_token());
      break;
  }
  return outcome.code == CommandCode::kCancelled ? gave_up(stop) : outcome;
}

CommandOutcome RegistryWatcher::follow(const std::string& name, const std::stop_token& stop) {
  Scenario& scenario = known(name);
  std::optional<std::string> version;
  std::string refusal;
  try {
    version = registry_.current(name);
    if (!version) refusal = "scenarios/" + name + "/current: no such file; publish a snapshot, or name a version";
  } catch (const Refused& error) {
    refusal = error.what();
  }
  if (version && *version != scenario.serving) {
    if (serve(name, *version, stop, true, &refusal) == Loaded::kStopped) return failed(CommandCode::kCancelled, "");
  }
  scenario.canary = {};  // the next scan loads what its label names, also if an alarm took that out of service
  settle(name, scenario);
  // From here on the registry decides, also when what it names now was refused.
  scenario.pinned = false;
  scenario.unloaded = false;
  show(name, scenario);
  if (!refusal.empty()) return failed(CommandCode::kFailedPrecondition, refusal);
  scenario.refusal.reset();
  store_.clear_refusal(name);
  return {};
}

CommandOutcome RegistryWatcher::load_version(const std::string& name, const std::string& version,
                                             const std::stop_token& stop) {
  auto at = scenarios_.find(name);
  bool served = at != scenarios_.end() && at->second.serving == version;
  bool resident = at != scenarios_.end() && at->second.resident.contains(version);
  std::filesystem::path folder = registry_.snapshot_dir(name, version);
  std::error_code error;
  if (!resident && !std::filesystem::is_directory(folder, error)) {
    return failed(CommandCode::kNotFound, "version: " + registry_.shown(folder) + ": no such folder in the registry");
  }
  Scenario& scenario = known(name);
  if (!served) {
    std::string refusal;
    switch (serve(name, version, stop, false, &refusal)) {
      case Loaded::kStopped:
        return failed(CommandCode::kCancelled, "");
      case Loaded::kRefused:
        return failed(CommandCode::kFailedPrecondition, refusal);
      case Loaded::kYes:
        break;
    }
  }
  scenario.pinned = true;
  scenario.canary = {};
  scenario.shadow = {};
  settle(name, scenario);
  scenario.refusal.reset();
  store_.clear_refusal(name);
  show(name, scenario);
  return {};
}

CommandOutcome RegistryWatcher::unload(const std::string& name) {
  Scenario& scenario = known(name);
  if (scenario.unloaded) return {};
  std::string version = std::exchange(scenario.serving, "");
  scenario.pinned = false;
  scenario.unloaded = true;
  scenario.refusal.reset();
  store_.clear_refusal(name);
  show(name, scenario);
  store_.withdraw(name);
  scenario.canary = {};
  scenario.shadow = {};
  settle(name, scenario);
  observer_.unloaded(name);
  log::info("snapshot_unloaded", {{"scenario", name}, {"version", version}});
  return {};
}

CommandOutcome RegistryWatcher::rollback(const std::string& name, const std::stop_token& stop) {
  Scenario& scenario = known(name);
  if (scenario.unloaded) {
    return failed(CommandCode::kFailedPrecondition, "scenario " + quote(name) + " is unloaded; Load serves it again");
  }
  if (!scenario.rolled_back) {
    if (scenario.previous.empty()) {
      return failed(CommandCode::kFailedPrecondition,
                    "no earlier version of scenario " + quote(name) +
                        " was served since this server started; Load takes one by its name");
    }
    std::string version = scenario.previous;
    CommandOutcome outcome = load_version(name, version, stop);
    if (outcome.code != CommandCode::kOk) return outcome;
    scenario.rolled_back = true;
    scenario.previous.clear();
    settle(name, scenario);  // lets go of what was rolled back
  }
  scenario.pinned = true;
  show(name, scenario);
  return {};
}

void RegistryWatcher::show(const std::string& name, const Scenario& scenario) {
  store_.set_control(name,
                     {.pinned = scenario.pinned, .unloaded = scenario.unloaded, .rollback_version = scenario.previous});
}

}  // namespace smt::server
