// TCP sockets, Thrift's, for control and tensor streams: listen, accept, connect, all in plain or
// under TLS, and the errors that people see.
#pragma once

#include <thrift/transport/TServerSocket.h>
#include <thrift/transport/TSocket.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "host/runtime/control.h"
#include "rpc/lobby.h"
#include "rpc/tls_socket.h"

namespace lockstep {

using Socket = apache::thrift::transport::TSocket;

inline Deadline deadline_in(int timeout_ms) {
  return std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
}
// At least 0, rounded up: 1 while any time is left.
int ms_until(Deadline deadline);

// Stops Thrift from writing to standard error. Any number of times, any thread.
void quiet_thrift();

// The numeric addresses of a host name, IPv4 first; an empty name is the loopback's.
Result<std::vector<std::string>> resolve(const std::string& host);

// Whether a numeric address is reached from this machine alone.
bool is_loopback(const std::string& address);

// Who may be at the other end of a connection.
struct Admission {
  std::shared_ptr<const TlsContext> tls;  // null: anybody, in plain
  std::vector<Role> roles = {};
};

// Connects within `timeout_ms`, over all addresses of the host (a look-up of a name may take
// longer), the handshake of TLS included. The socket sends without delay and is not inherited by
// programs that the process starts. Errors begin with `who`: "coordinator 127.0.0.1:5000:
// connection refused"; those about certificates are of kind `refused`.
Result<std::shared_ptr<Socket>> connect_socket(const Address& address, int timeout_ms,
                                               const std::string& who,
                                               const Admission& admission = {});

// A numeric address, of IPv4 always in IPv4's form.
std::string host_of(const sockaddr_storage& address);

// A connection that was accepted.
struct Visitor {
  std::shared_ptr<Socket> socket;
  std::string host;             // the peer's numeric address
  std::optional<Role> role;     // what its certificate says; none in plain
  std::function<void()> admit;  // it is none of the strangers any more
};

// Accepts connections and runs the handler for each on a thread of its own. A connection ends when
// the handler has returned and nobody else holds its socket; nobody may close() a socket, only
// shut it down. Connections beyond the limit are closed at once.
//
// A connection is a stranger's until the handler admits it, or its handshake of TLS is done: one
// stranger too many ends the oldest of them, so that a flood never keeps out who comes to work.
// Under TLS a connection comes to its thread through the lobby.
class SocketServer {
 public:
  struct Options {
    int max_connections = 512;
    int max_strangers = 64;      // that have a thread
    int max_waiting = 256;       // in the lobby
    int receive_timeout_ms = 0;  // 0: for ever
    int send_timeout_ms = 0;
    int handshake_timeout_ms = 5'000;       // the lobby's time included
    int failed_handshakes_per_second = 50;  // of one address; more of them wait
    int failed_handshakes_at_once = 100;
    Admission admission = {};
    std::function<void(const std::string&)> log = {};  // who was refused; any thread
  };
  using Handler = std::function<void(const Visitor&)>;

  // Fails when the address cannot be had, and says why.
  static Result<std::unique_ptr<SocketServer>> start(const Address& listen, Options options,
                                                     Handler handler);
  // Stops accepting, shuts down the sockets whose handlers still run, and joins all threads.
  ~SocketServer();
  int port() const { return port_; }

 private:
  struct Connection {
    std::shared_ptr<Socket> socket;  // null when the handler has returned
    std::thread thread;
    bool stranger = true;
    bool ended = false;  // to make room
  };
  using Place = std::list<Connection>::iterator;

  SocketServer(Options options, Handler handler)
      : options_(std::move(options)),
        handler_(std::move(handler)),
        budget_(options_.failed_handshakes_per_second, options_.failed_handshakes_at_once) {}
  void accept_loop();
  bool accept_all();
  void add(const Lobby::Leaver& from);
  void make_room();
  void run(Place connection, const Lobby::Leaver& from);
  void serve(Place connection, const std::shared_ptr<Socket>& socket, const Lobby::Leaver& from);
  void log_refused(const sockaddr_storage& peer, const std::string& why);
  void join_finished();

  const Options options_;
  const Handler handler_;
  std::unique_ptr<apache::thrift::transport::TServerSocket> listener_;
  int port_ = 0;
  HandshakeBudget budget_;
  std::unique_ptr<Lobby> lobby_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable finished_;
  std::list<Connection> connections_;  // by age; guarded by mutex_; the accepting thread erases
  Deadline next_log_;                  // guarded by mutex_
  int not_logged_ = 0;                 // guarded by mutex_
  std::thread accepting_;
};

}  // namespace lockstep
