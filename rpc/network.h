// Control over Thrift and tensor streams over Thrift's transports.
#pragma once

#include <memory>

#include "host/runtime/stream.h"

namespace lockstep {

// Ignores SIGPIPE in the process.
std::unique_ptr<Network> make_thrift_network();

}  // namespace lockstep
