// Serves a ControlService over Thrift.
#pragma once

#include <memory>

#include "host/runtime/control.h"
#include "rpc/sockets.h"

namespace lockstep {

// The defaults are what runs; tests have less time.
struct ControlServerOptions {
  int max_clients = 512;              // later ones are closed at once
  int max_strangers = 64;             // of these, clients that no call of a node has succeeded for
  int first_call_timeout_ms = 5'000;  // for the handshake of TLS, and again for the first call
  int idle_timeout_ms = 10'000;       // between the messages of one connection
  int message_timeout_ms = 10'000;    // for the whole of a message, from its first byte on
  int send_timeout_ms = 10'000;       // without progress
  std::shared_ptr<const TlsContext> tls = nullptr;   // null: in plain
  std::function<void(const std::string&)> log = {};  // who was refused; any thread
};

// Under TLS a node may make every call, an operator those that only ask (status and the like), and
// nobody else connects. A thread accepts, and each connection has a thread of its own, on which the
// service is called. The service must outlive the server. When a connection on which a session has
// polled ends, for any reason but the server's own end, `connection_lost` is called, once, whether
// the session has left or not; a session that has reconnected in the meantime is no exception. The
// destructor takes as long as the longest call to the service still takes. Fails when the address
// cannot be had, naming it.
Result<std::unique_ptr<ControlServer>> make_control_server(const Address& listen,
                                                           ControlService& service,
                                                           ControlServerOptions options = {});

}  // namespace lockstep
