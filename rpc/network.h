// Control over Thrift and tensor streams over Thrift's transports.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "host/runtime/stream.h"
#include "rpc/tls.h"

namespace lockstep {

struct NetworkOptions {
  // Tensor streams between processes of one host go through shared memory where both can map it.
  bool shared_memory = true;
  std::shared_ptr<const TlsContext> tls = nullptr;  // null: in plain
  // Without TLS only this machine's loopback listens, unless this says otherwise.
  bool insecure = false;
  // Warnings, and who was refused. Any thread.
  std::function<void(const std::string&)> log = {};
};

// Ignores SIGPIPE in the process.
std::unique_ptr<Network> make_thrift_network(NetworkOptions options = {});

}  // namespace lockstep
