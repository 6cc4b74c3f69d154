// The flags about who may connect, and to what.
#pragma once

#include <CLI/CLI.hpp>

#include "options.h"

namespace smt::server {

void add_security_options(CLI::App& app, Options& options);

}  // namespace smt::server
