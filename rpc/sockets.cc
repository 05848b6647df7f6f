#include "rpc/sockets.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <thrift/TOutput.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace lockstep {

using apache::thrift::TOutput;
using apache::thrift::transport::TServerSocket;
using apache::thrift::transport::TTransportException;

namespace {

constexpr int kAcceptsAtOnce = 64;
constexpr int kEndMs = 50;  // what a handler takes whose socket was shut down

bool says(const TTransportException& failure, int error_number) {
  return std::strstr(failure.what(), TOutput::strerror_s(error_number).c_str()) != nullptr;
}

void close_on_exec(int descriptor) { fcntl(descriptor, F_SETFD, FD_CLOEXEC); }

// A connection to a free port of this machine may be given that very port, and then talks to
// itself.
bool is_connected_to_itself(int descriptor) {
  sockaddr_storage here{};
  sockaddr_storage there{};
  socklen_t here_bytes = sizeof(here);
  socklen_t there_bytes = sizeof(there);
  return getsockname(descriptor, reinterpret_cast<sockaddr*>(&here), &here_bytes) == 0 &&
         getpeername(descriptor, reinterpret_cast<sockaddr*>(&there), &there_bytes) == 0 &&
         here_bytes == there_bytes && std::memcmp(&here, &there, here_bytes) == 0;
}

std::string connect_failure(const TTransportException& failure, int timeout_ms) {
  if (says(failure, ECONNREFUSED)) return "connection refused; does it run there?";
  if (std::strstr(failure.what(), "timed out") != nullptr) {
    return fmt::format("no answer within {} ms", timeout_ms);
  }
  return failure.what();
}

Error listen_failure(const Address& listen, const TTransportException& failure) {
  if (says(failure, EADDRINUSE)) {
    return {
        fmt::format("cannot listen on {}: the port is in use; choose another, or port 0 for "
                    "any that is free",
                    listen.text())};
  }
  if (says(failure, EADDRNOTAVAIL)) {
    return {
        fmt::format("cannot listen on {}: this machine has no such address; 127.0.0.1 is for "
                    "this machine alone, 0.0.0.0 for all that reach it",
                    listen.text())};
  }
  return {fmt::format("cannot listen on {}: {}", listen.text(), failure.what())};
}

}  // namespace

int ms_until(Deadline deadline) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return left.count() > 0 ? static_cast<int>(left.count()) : 0;
}

void quiet_thrift() {
  static const bool done = [] {
    apache::thrift::GlobalOutput.setOutputFunction([](const char*) {});
    return true;
  }();
  static_cast<void>(done);
}

Result<std::vector<std::string>> resolve(const std::string& host) {
  std::string name = host.empty() ? "127.0.0.1" : host;
  if (name.size() > 2 && name.front() == '[' && name.back() == ']') {
    name = name.substr(1, name.size() - 2);
  }
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failure = getaddrinfo(name.c_str(), nullptr, &hints, &found);
  if (failure != 0) {
    return Error{fmt::format("unknown host '{}' ({})", name, gai_strerror(failure))};
  }
  std::vector<std::string> addresses;
  for (const int family : {AF_INET, AF_INET6}) {
    for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
      char text[NI_MAXHOST];
      if (each->ai_family == family && getnameinfo(each->ai_addr, each->ai_addrlen, text,
                                                   sizeof(text), nullptr, 0, NI_NUMERICHOST) == 0) {
        addresses.emplace_back(text);
      }
    }
  }
  freeaddrinfo(found);
  if (addresses.empty()) return Error{fmt::format("host '{}' has no address", name)};
  return addresses;
}

Result<std::shared_ptr<Socket>> connect_socket(const Address& address, int timeout_ms,
                                               const std::string& who, const Admission& admission) {
  quiet_thrift();
  const auto addresses = resolve(address.host);
  if (!addresses) return Error{fmt::format("{}: {}", who, addresses.error().message)};
  const Deadline deadline = deadline_in(timeout_ms);
  std::string reason;
  for (const std::string& host : *addresses) {
    auto socket = std::make_shared<TlsSocket>(host, address.port);
    socket->setConnTimeout(std::max(1, ms_until(deadline)));
    // Thrift's default throws away what the peer has not yet received.
    socket->setLinger(false, 0);
    try {
      socket->open();
    } catch (const TTransportException& failure) {
      reason = connect_failure(failure, timeout_ms);
      continue;
    }
    close_on_exec(socket->getSocketFD());
    if (is_connected_to_itself(socket->getSocketFD())) {
      reason = "connection refused; does it run there?";
      continue;
    }
    if (admission.tls == nullptr) return std::shared_ptr<Socket>(socket);
    auto session = admission.tls->connect(socket->getSocketFD(), admission.roles, deadline);
    if (!session.ok()) {
      return Error{fmt::format("{}: {}", who, session.error().message), session.error().kind};
    }
    socket->start(std::move(session).value());
    return std::shared_ptr<Socket>(socket);
  }
  return Error{fmt::format("{}: {}", who, reason)};
}

bool is_loopback(const std::string& address) {
  in_addr v4{};
  if (inet_pton(AF_INET, address.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  return address == "::1";
}

std::string host_of(const sockaddr_storage& address) {
  char text[NI_MAXHOST] = "?";
  getnameinfo(reinterpret_cast<const sockaddr*>(&address), sizeof(address), text, sizeof(text),
              nullptr, 0, NI_NUMERICHOST);
  const std::string host = text;
  const std::string mapped = "::ffff:";
  return host.rfind(mapped, 0) == 0 ? host.substr(mapped.size()) : host;
}

Result<std::unique_ptr<SocketServer>> SocketServer::start(const Address& listen, Options options,
                                                          Handler handler) {
  quiet_thrift();
  const auto addresses = resolve(listen.host);
  if (!addresses) {
    return Error{fmt::format("cannot listen on {}: {}", listen.text(), addresses.error().message)};
  }
  std::unique_ptr<SocketServer> server(new SocketServer(std::move(options), std::move(handler)));
  server->listener_ = std::make_unique<TServerSocket>(addresses->front(), listen.port);
  TServerSocket& listener = *server->listener_;
  listener.setListenCallback([](int descriptor) {
    close_on_exec(descriptor);
    // Thrift holds a connection back until its peer has written; here either side may begin.
    const int at_once = 0;
    setsockopt(descriptor, IPPROTO_TCP, TCP_DEFER_ACCEPT, &at_once, sizeof(at_once));
    fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK);
  });
  try {
    listener.listen();
  } catch (const TTransportException& failure) {
    return listen_failure(listen, failure);
  }
  server->port_ = listener.getPort();
  auto lobby = Lobby::make({server->options_.max_waiting, server->options_.handshake_timeout_ms},
                           listener.getSocketFD(), server->budget_);
  if (!lobby.ok()) {
    return Error{fmt::format("cannot listen on {}: {}", listen.text(), lobby.error().message)};
  }
  server->lobby_ = std::move(lobby).value();
  server->accepting_ = std::thread([raw = server.get()] { raw->accept_loop(); });
  return server;
}

SocketServer::~SocketServer() {
  if (!accepting_.joinable()) return;
  stopping_ = true;
  lobby_->wake();
  accepting_.join();
  listener_->close();
  {
    const std::lock_guard lock(mutex_);
    for (const Connection& connection : connections_) {
      if (connection.socket) shutdown(connection.socket->getSocketFD(), SHUT_RDWR);
    }
  }
  for (Connection& connection : connections_) connection.thread.join();
}

void SocketServer::accept_loop() {
  while (!stopping_) {
    const std::vector<Lobby::Leaver> leavers = lobby_->wait();
    join_finished();
    for (const Lobby::Leaver& leaver : leavers) {
      if (leaver.why == nullptr) {
        add(leaver);
      } else {
        log_refused(leaver.peer, leaver.why);
        ::close(leaver.descriptor);
      }
    }
    // No descriptor left, which does not end the server.
    if (!accept_all()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

// All that wait at the listener, within reason.
bool SocketServer::accept_all() {
  for (int i = 0; i < kAcceptsAtOnce; ++i) {
    sockaddr_storage peer{};
    socklen_t bytes = sizeof(peer);
    const int descriptor =
        accept4(listener_->getSocketFD(), reinterpret_cast<sockaddr*>(&peer), &bytes, SOCK_CLOEXEC);
    if (descriptor < 0) return errno != EMFILE && errno != ENFILE;
    if (options_.admission.tls != nullptr) {
      lobby_->enter(descriptor, peer);
    } else {
      add({descriptor, peer});
    }
  }
  return true;
}

void SocketServer::add(const Lobby::Leaver& from) {
  auto socket = std::make_shared<TlsSocket>(from.descriptor);
  socket->setSendTimeout(options_.send_timeout_ms);
  socket->setRecvTimeout(options_.receive_timeout_ms);
  socket->setKeepAlive(true);
  std::unique_lock lock(mutex_);
  make_room();
  // Strangers that were ended are about to go.
  const auto has_room = [this] {
    const auto running =
        std::count_if(connections_.begin(), connections_.end(),
                      [](const Connection& each) { return each.socket != nullptr; });
    return stopping_ || running < options_.max_connections;
  };
  if (!finished_.wait_for(lock, std::chrono::milliseconds(kEndMs), has_room)) return;
  connections_.push_back({std::move(socket), {}});
  const auto added = std::prev(connections_.end());
  try {
    added->thread = std::thread([this, added, from] { run(added, from); });
  } catch (const std::system_error&) {
    connections_.erase(added);
  }
}

// For one more stranger.
void SocketServer::make_room() {
  Connection* oldest = nullptr;
  int strangers = 0;
  for (Connection& each : connections_) {
    if (!each.stranger || each.ended || !each.socket) continue;
    if (oldest == nullptr) oldest = &each;
    ++strangers;
  }
  if (strangers < options_.max_strangers) return;
  oldest->ended = true;
  shutdown(oldest->socket->getSocketFD(), SHUT_RDWR);
}

void SocketServer::run(Place connection, const Lobby::Leaver& from) {
  std::shared_ptr<Socket> socket;
  {
    const std::lock_guard lock(mutex_);
    socket = connection->socket;
  }
  serve(connection, socket, from);
  // From here on the destructor does not touch the descriptor, which may close any time.
  const std::lock_guard lock(mutex_);
  connection->socket.reset();
  finished_.notify_all();
}

void SocketServer::serve(Place connection, const std::shared_ptr<Socket>& socket,
                         const Lobby::Leaver& from) {
  Visitor visitor;
  visitor.socket = socket;
  visitor.host = host_of(from.peer);
  visitor.admit = [this, connection] {
    const std::lock_guard lock(mutex_);
    connection->stranger = false;
  };
  if (const Admission& admission = options_.admission; admission.tls != nullptr) {
    auto session = admission.tls->accept(socket->getSocketFD(), admission.roles, from.until);
    if (!session.ok()) {
      log_refused(from.peer, session.error().message);
      return;
    }
    budget_.give_back(origin_of(from.peer));
    visitor.role = (*session)->peer().role;
    static_cast<TlsSocket&>(*socket).start(std::move(session).value());
    visitor.admit();
  }
  handler_(visitor);
}

// One line a second: a flood must not fill the disk.
void SocketServer::log_refused(const sockaddr_storage& peer, const std::string& why) {
  if (!options_.log || stopping_) return;
  std::string more;
  {
    const std::lock_guard lock(mutex_);
    const Deadline now = std::chrono::steady_clock::now();
    if (now < next_log_) {
      ++not_logged_;
      return;
    }
    next_log_ = now + std::chrono::seconds(1);
    if (not_logged_ > 0) more = fmt::format(" ({} more since the last line)", not_logged_);
    not_logged_ = 0;
  }
  options_.log(fmt::format("refused {}: {}{}", host_of(peer), why, more));
}

void SocketServer::join_finished() {
  std::list<Connection> finished;
  {
    const std::lock_guard lock(mutex_);
    for (auto each = connections_.begin(); each != connections_.end();) {
      const auto next = std::next(each);
      if (!each->socket) finished.splice(finished.end(), connections_, each);
      each = next;
    }
  }
  for (Connection& connection : finished) connection.thread.join();
}

}  // namespace lockstep
