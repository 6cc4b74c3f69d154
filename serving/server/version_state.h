// The life of one version of a scenario in this server, and the only steps that it can take.
#pragma once

#include <array>
#include <string_view>

namespace smt::server {

enum class VersionState {
  kDiscovered,  // the registry, or an operator, names it
  kVerifying,   // its manifest is read and checked, and its template binary found
  kLoading,     // there is room for it; its weights are read, checked, packed and tried
  kWarm,        // complete and resident, but no request is given to it: what a rollback goes to at once
  kServing,     // requests are given to it, as stable, canary or shadow
  kDraining,    // no new request is given to it; it is freed when the last that began with it has its answer
  kUnloaded,    // freed, or given up before it was loaded. The end
  kRefused,     // it cannot be served, or was taken out of service for what it did; the reason says which. The end
};
inline constexpr std::array kAllVersionStates{
    VersionState::kDiscovered, VersionState::kVerifying, VersionState::kLoading,  VersionState::kWarm,
    VersionState::kServing,    VersionState::kDraining,  VersionState::kUnloaded, VersionState::kRefused};

// In lower case, as logs, metrics and status show it.
std::string_view version_state_name(VersionState state);

// Whether the step is one of a version's life.
bool may_become(VersionState from, VersionState to);

// Whether a version in this state may hold memory for weights.
bool holds_weights(VersionState state);

}  // namespace smt::server
