#include "rpc/network.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <utility>

#include "rpc/byte_stream.h"
#include "rpc/control_client.h"
#include "rpc/control_server.h"
#include "rpc/shared_stream.h"
#include "rpc/sockets.h"

namespace lockstep {
namespace {

class ThriftNetwork final : public Network {
 public:
  explicit ThriftNetwork(NetworkOptions options) : options_(std::move(options)) {}
  Result<std::unique_ptr<ControlServer>> serve_control(const Address& listen,
                                                       ControlService& service) override {
    LOCKSTEP_RETURN_IF_ERROR(check_listen(listen));
    ControlServerOptions control;
    control.tls = options_.tls;
    control.log = options_.log;
    return make_control_server(listen, service, control);
  }
  Result<std::unique_ptr<ControlClient>> connect_control(const Address& coordinator,
                                                         int timeout_ms) override {
    ControlClientOptions control;
    control.connect_timeout_ms = timeout_ms;
    control.tls = options_.tls;
    return make_control_client(coordinator, control);
  }
  Result<std::unique_ptr<StreamListener>> listen_streams(
      const Address& listen, std::function<void(std::shared_ptr<ByteStream>)> accepted) override {
    LOCKSTEP_RETURN_IF_ERROR(check_listen(listen));
    StreamListenerOptions streams;
    streams.tls = options_.tls;
    streams.log = options_.log;
    return make_stream_listener(
        listen,
        [accepted = std::move(accepted)](std::shared_ptr<SocketByteStream> socket) {
          auto stream = answer_shared_memory(std::move(socket));
          if (stream.ok()) accepted(std::move(stream).value());
        },
        streams);
  }
  Result<std::shared_ptr<ByteStream>> connect_stream(const Address& peer, int timeout_ms) override {
    LOCKSTEP_ASSIGN(auto socket, make_stream(peer, timeout_ms, options_.tls));
    return offer_shared_memory(std::move(socket), options_.shared_memory);
  }

 private:
  // Whoever can reach a port without TLS can end the job or change what it learns.
  Status check_listen(const Address& listen) const {
    if (options_.tls != nullptr) return {};
    const auto addresses = resolve(listen.host);
    if (!addresses || std::ranges::all_of(*addresses, is_loopback)) return {};
    if (!options_.insecure) {
      return usage_error(fmt::format(
          "--listen {}: without certificates only this machine may reach the port (127.0.0.1); "
          "give "
          "--tls DIR ('lockstep certs' makes them), or --insecure if you trust everyone who can "
          "reach it",
          listen.text()));
    }
    if (options_.log) {
      options_.log(fmt::format(
          "warning: {} is open without TLS (--insecure): whoever reaches it can read and change "
          "this job",
          listen.text()));
    }
    return {};
  }

  const NetworkOptions options_;
};

}  // namespace

std::unique_ptr<Network> make_thrift_network(NetworkOptions options) {
  quiet_thrift();
  std::signal(SIGPIPE, SIG_IGN);
  return std::make_unique<ThriftNetwork>(std::move(options));
}

}  // namespace lockstep
