#include "rpc/network.h"

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
  explicit ThriftNetwork(bool shared_memory) : shared_memory_(shared_memory) {}
  Result<std::unique_ptr<ControlServer>> serve_control(const Address& listen,
                                                       ControlService& service) override {
    return make_control_server(listen, service);
  }
  Result<std::unique_ptr<ControlClient>> connect_control(const Address& coordinator,
                                                         int timeout_ms) override {
    ControlClientOptions options;
    options.connect_timeout_ms = timeout_ms;
    return make_control_client(coordinator, options);
  }
  Result<std::unique_ptr<StreamListener>> listen_streams(
      const Address& listen, std::function<void(std::shared_ptr<ByteStream>)> accepted) override {
    return make_stream_listener(
        listen, [accepted = std::move(accepted)](std::shared_ptr<SocketByteStream> socket) {
          auto stream = answer_shared_memory(std::move(socket));
          if (stream.ok()) accepted(std::move(stream).value());
        });
  }
  Result<std::shared_ptr<ByteStream>> connect_stream(const Address& peer, int timeout_ms) override {
    LOCKSTEP_ASSIGN(auto socket, make_stream(peer, timeout_ms));
    return offer_shared_memory(std::move(socket), shared_memory_);
  }

 private:
  const bool shared_memory_;
};

}  // namespace

std::unique_ptr<Network> make_thrift_network(bool shared_memory) {
  quiet_thrift();
  std::signal(SIGPIPE, SIG_IGN);
  return std::make_unique<ThriftNetwork>(shared_memory);
}

}  // namespace lockstep
