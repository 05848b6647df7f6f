// A node's calls to its coordinator, over Thrift.
#pragma once

#include <memory>

#include "host/runtime/control.h"
#include "rpc/tls.h"

namespace lockstep {

struct ControlClientOptions {
  int connect_timeout_ms = 2'000;
  int call_timeout_ms = 10'000;  // for a call as a whole, reconnecting included
  // The same for those that wait for a disk: the last part of an upload, fetch, and deliver.
  int disk_timeout_ms = 60'000;
  std::shared_ptr<const TlsContext> tls = nullptr;  // null: in plain
};

// Connects, once. Each call connects again where its connection was closed, and is then made a
// second time, which every call allows: reports and uploads say what they are about. Errors name
// the coordinator's address; a refusal has the kind that the service gave it.
Result<std::unique_ptr<ControlClient>> make_control_client(const Address& coordinator,
                                                           ControlClientOptions options = {});

}  // namespace lockstep
