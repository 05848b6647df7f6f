#include "rpc/control_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "rpc/convert.h"
#include "rpc/message_transport.h"
#include "rpc/sockets.h"
#include "wire/Coordinator.h"

namespace lockstep {
namespace {

// The value, or the error as Thrift's exception: it goes to the client.
template <class T>
T value_or_refuse(Result<T> result) {
  if (!result.ok()) throw to_wire(result.error());
  return std::move(result).value();
}
void ok_or_refuse(const Status& status) {
  if (!status.ok()) throw to_wire(status.error());
}

// On which connection each session polls: the newest. One that was reset may end long after its
// node polls on another, which says nothing of the node. Any thread.
class Pollers {
 public:
  int64_t add_connection() { return ++connections_; }
  void polls(SessionId session, int64_t connection) {
    const std::lock_guard lock(mutex_);
    int64_t& newest = newest_[session];
    newest = std::max(newest, connection);
  }
  // Whether the session polls on no other.
  bool ends(SessionId session, int64_t connection) {
    const std::lock_guard lock(mutex_);
    const auto found = newest_.find(session);
    if (found == newest_.end() || found->second != connection) return false;
    newest_.erase(found);
    return true;
  }

 private:
  std::atomic<int64_t> connections_{0};
  std::mutex mutex_;
  std::map<SessionId, int64_t> newest_;  // guarded by mutex_
};

// The calls of one connection. A node's first one that succeeds admits it; in plain everybody
// counts as a node.
class Calls final : public wire::CoordinatorIf {
 public:
  Calls(ControlService& service, const Visitor& visitor, Pollers& pollers)
      : service_(service),
        visitor_(visitor),
        pollers_(pollers),
        connection_(pollers.add_connection()) {}

  // The session that polled on this connection, and on no later one.
  std::optional<SessionId> lost() {
    if (polling_ && pollers_.ends(*polling_, connection_)) return polling_;
    return std::nullopt;
  }

  void hello(wire::Welcome& answer, const wire::Hello& hello) override {
    for_node([&] {
      answer = to_wire(value_or_refuse(service_.hello(value_or_refuse(from_wire(hello)))));
    });
  }
  void join(const wire::JoinRequest& request) override {
    for_node(
        [&] { ok_or_refuse(service_.join(value_or_refuse(from_wire(request)), visitor_.host)); });
  }
  void poll(wire::PollReply& answer, const wire::PollRequest& request) override {
    for_node([&] {
      const PollRequest asked = value_or_refuse(from_wire(request));
      pollers_.polls(asked.session, connection_);
      const auto reply = service_.poll(asked);
      if (reply.ok()) {
        polling_ = asked.session;
      } else {
        pollers_.ends(asked.session, connection_);
      }
      answer = to_wire(value_or_refuse(reply));
    });
  }
  void attach(const int64_t session, const wire::Standing& standing) override {
    for_node([&] {
      ok_or_refuse(check_session(session));
      ok_or_refuse(service_.attach(session, value_or_refuse(from_wire(standing))));
    });
  }
  void report_held(const wire::HeldReport& report) override {
    for_node([&] { ok_or_refuse(service_.report_held(value_or_refuse(from_wire(report)))); });
  }
  void report_step(const wire::StepReport& report) override {
    for_node([&] { ok_or_refuse(service_.report_step(value_or_refuse(from_wire(report)))); });
  }
  void report_epoch(const wire::EpochReport& report) override {
    for_node([&] { ok_or_refuse(service_.report_epoch(value_or_refuse(from_wire(report)))); });
  }
  void report_fault(const wire::FaultReport& report) override {
    for_node([&] { ok_or_refuse(service_.report_fault(value_or_refuse(from_wire(report)))); });
  }
  void upload(const wire::StatePart& part) override {
    for_node([&] { ok_or_refuse(service_.upload(value_or_refuse(from_wire(part)))); });
  }
  void fetch(std::string& answer, const int64_t session, const std::string& object,
             const int64_t offset) override {
    for_node([&] {
      ok_or_refuse(check_fetch(session, offset));
      answer = value_or_refuse(service_.fetch(session, object, offset));
    });
  }
  void ask_to_leave(const int64_t session) override {
    for_node([&] {
      ok_or_refuse(check_session(session));
      ok_or_refuse(service_.ask_to_leave(session));
    });
  }
  void leave(const int64_t session) override {
    for_node([&] {
      ok_or_refuse(check_session(session));
      ok_or_refuse(service_.leave(session));
    });
  }
  void status(std::string& answer) override { answer = service_.status(); }
  void newest_state(wire::NewestState& answer) override {
    answer = to_wire(value_or_refuse(service_.newest_state()));
  }
  void read_state(std::string& answer, const std::string& object, const int64_t offset) override {
    ok_or_refuse(check_fetch(0, offset));
    answer = value_or_refuse(service_.read_state(object, offset));
  }
  void next_batches(wire::WorkReply& answer, const wire::WorkRequest& request) override {
    for_node([&] {
      answer = to_wire(value_or_refuse(service_.next_batches(value_or_refuse(from_wire(request)))));
    });
  }
  void deliver(const wire::ResultPart& part) override {
    for_node([&] { ok_or_refuse(service_.deliver(value_or_refuse(from_wire(part)))); });
  }

 private:
  template <class Call>
  void for_node(const Call& call) const {
    if (visitor_.role && *visitor_.role != Role::node) {
      throw to_wire(refused_error(fmt::format(
          "this call is for nodes, and the certificate is of a {}: --tls must name a node's folder",
          role_name(*visitor_.role))));
    }
    call();
    visitor_.admit();
  }

  ControlService& service_;
  const Visitor& visitor_;
  Pollers& pollers_;
  const int64_t connection_;
  std::optional<SessionId> polling_;
};

class ThriftControlServer final : public ControlServer {
 public:
  ThriftControlServer(ControlService& service, ControlServerOptions options)
      : service_(service), options_(options) {}

  ~ThriftControlServer() override {
    stopping_ = true;
    server_.reset();
  }

  Status start(const Address& listen) {
    SocketServer::Options sockets;
    sockets.max_connections = options_.max_clients;
    sockets.max_strangers = options_.max_strangers;
    sockets.receive_timeout_ms = options_.idle_timeout_ms;
    sockets.send_timeout_ms = options_.send_timeout_ms;
    sockets.handshake_timeout_ms = options_.first_call_timeout_ms;
    sockets.admission = {options_.tls, {Role::node, Role::observer}};
    sockets.log = options_.log;
    LOCKSTEP_ASSIGN(server_, SocketServer::start(listen, sockets, [this](const Visitor& visitor) {
                      serve(visitor);
                    }));
    return {};
  }

  int port() const override { return server_->port(); }

 private:
  void serve(const Visitor& visitor) {
    auto calls = std::make_shared<Calls>(service_, visitor, pollers_);
    try {
      wire::CoordinatorProcessor processor(calls);
      const auto transport = std::make_shared<MessageTransport>(
          visitor.socket, options_.idle_timeout_ms, options_.message_timeout_ms);
      transport->expect_message_by(deadline_in(options_.first_call_timeout_ms));
      const auto protocol = make_protocol(transport);
      while (!stopping_ && processor.process(protocol, protocol, nullptr)) continue;
    } catch (const std::exception&) {
      // The end of a connection: the client closed it, was silent, or sent what is no message.
    }
    const auto lost = calls->lost();
    if (lost && !stopping_) service_.connection_lost(*lost);
  }

  ControlService& service_;
  const ControlServerOptions options_;
  std::atomic<bool> stopping_{false};
  Pollers pollers_;
  std::unique_ptr<SocketServer> server_;
};

}  // namespace

Result<std::unique_ptr<ControlServer>> make_control_server(const Address& listen,
                                                           ControlService& service,
                                                           ControlServerOptions options) {
  auto server = std::make_unique<ThriftControlServer>(service, options);
  LOCKSTEP_RETURN_IF_ERROR(server->start(listen));
  return std::unique_ptr<ControlServer>(std::move(server));
}

}  // namespace lockstep
