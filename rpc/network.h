// Control over Thrift and tensor streams over Thrift's transports.
#pragma once

#include <memory>

#include "host/runtime/stream.h"

namespace lockstep {

// Ignores SIGPIPE in the process. Tensor streams between processes of one host go through shared
// memory where both can map it, unless it is not wanted.
std::unique_ptr<Network> make_thrift_network(bool shared_memory = true);

}  // namespace lockstep
