#include "rpc/byte_stream.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <utility>

#include "host/core/files.h"
#include "rpc/sockets.h"

namespace lockstep {
namespace {

// A machine that is gone, or a link that is cut, is noticed after this long, by keepalive or by
// unanswered data. The kernel answers for a process that is only slow.
constexpr int kDeadPeerSeconds = 3;

void set_option(int descriptor, int level, int option, int value) {
  // Failing costs speed or an earlier notice, never a byte.
  static_cast<void>(setsockopt(descriptor, level, option, &value, sizeof(value)));
}

class SocketStream final : public SocketByteStream {
 public:
  SocketStream(std::shared_ptr<Socket> socket, std::string peer)
      : socket_(std::move(socket)), descriptor_(socket_->getSocketFD()), peer_(std::move(peer)) {
    set_option(descriptor_, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(descriptor_, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(descriptor_, IPPROTO_TCP, TCP_KEEPIDLE, 1);
    set_option(descriptor_, IPPROTO_TCP, TCP_KEEPINTVL, 1);
    set_option(descriptor_, IPPROTO_TCP, TCP_KEEPCNT, kDeadPeerSeconds - 1);
    set_option(descriptor_, IPPROTO_TCP, TCP_USER_TIMEOUT, kDeadPeerSeconds * 1000);
  }

  Status read(void* data, size_t bytes, int timeout_ms) override {
    auto* next = static_cast<char*>(data);
    while (bytes > 0) {
      if (closed_) return closed_here();
      const ssize_t received =
          recv(descriptor_, next, bytes, timeout_ms == 0 ? MSG_WAITALL : MSG_DONTWAIT);
      if (received > 0) {
        next += received;
        bytes -= static_cast<size_t>(received);
      } else if (received == 0) {
        return closed_ ? closed_here() : closed_by_peer();
      } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
        LOCKSTEP_RETURN_IF_ERROR(wait_for_bytes(timeout_ms));
      } else if (errno != EINTR) {
        return failure();
      }
    }
    return {};
  }

  Status write(const void* header, size_t header_bytes, const void* body,
               size_t body_bytes) override {
    iovec parts[2] = {{const_cast<void*>(header), header_bytes},
                      {const_cast<void*>(body), body_bytes}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    size_t left = header_bytes + body_bytes;
    while (left > 0) {
      if (closed_) return closed_here();
      const ssize_t sent = sendmsg(descriptor_, &message, MSG_NOSIGNAL);
      if (sent < 0) {
        if (errno == EINTR) continue;
        return failure();
      }
      left -= static_cast<size_t>(sent);
      auto done = static_cast<size_t>(sent);
      for (iovec& part : parts) {
        const size_t of_part = done < part.iov_len ? done : part.iov_len;
        part.iov_base = static_cast<char*>(part.iov_base) + of_part;
        part.iov_len -= of_part;
        done -= of_part;
      }
    }
    return {};
  }

  void close() override {
    closed_ = true;
    // Not ::close: another thread may be about to use the descriptor.
    shutdown(descriptor_, SHUT_RDWR);
  }

  bool alive() override {
    char byte = 0;
    const ssize_t peeked = recv(descriptor_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return peeked > 0 ||
           (peeked < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR));
  }

  bool same_host() override {
    const auto text = [](const sockaddr_storage& address, socklen_t size) {
      char host[NI_MAXHOST] = "";
      getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof(host), nullptr, 0,
                  NI_NUMERICHOST);
      return std::string(host);
    };
    sockaddr_storage here{};
    sockaddr_storage there{};
    socklen_t here_size = sizeof(here);
    socklen_t there_size = sizeof(there);
    return getsockname(descriptor_, reinterpret_cast<sockaddr*>(&here), &here_size) == 0 &&
           getpeername(descriptor_, reinterpret_cast<sockaddr*>(&there), &there_size) == 0 &&
           text(here, here_size) == text(there, there_size);
  }

 private:
  // Returns when there is something to read, the end of the stream included.
  Status wait_for_bytes(int timeout_ms) {
    const Deadline deadline = deadline_in(timeout_ms);
    pollfd waiting{descriptor_, POLLIN, 0};
    while (true) {
      const int ready = ::poll(&waiting, 1, timeout_ms == 0 ? -1 : ms_until(deadline));
      if (ready > 0) return {};
      if (ready < 0 && errno != EINTR) return failure();
      if (ready == 0) return Error{fmt::format("peer {}: silent for {} ms", peer_, timeout_ms)};
    }
  }

  Error closed_here() const { return {fmt::format("peer {}: stream closed here", peer_)}; }
  Error closed_by_peer() const {
    return {fmt::format("peer {}: connection closed by the peer", peer_)};
  }
  // For the calling thread's errno.
  Error failure() const {
    const int number = errno;
    if (closed_) return closed_here();
    if (number == EPIPE || number == ECONNRESET) return closed_by_peer();
    errno = number;
    return {fmt::format("peer {}: {}", peer_, errno_text())};
  }

  const std::shared_ptr<Socket> socket_;
  const int descriptor_;
  const std::string peer_;
  std::atomic<bool> closed_{false};
};

class SocketStreamListener final : public StreamListener {
 public:
  explicit SocketStreamListener(std::unique_ptr<SocketServer> server)
      : server_(std::move(server)) {}
  int port() const override { return server_->port(); }

 private:
  const std::unique_ptr<SocketServer> server_;
};

}  // namespace

Result<std::unique_ptr<StreamListener>> make_stream_listener(
    const Address& listen, std::function<void(std::shared_ptr<SocketByteStream>)> accepted,
    StreamListenerOptions options) {
  SocketServer::Options sockets;
  sockets.max_connections = options.max_callbacks;
  const auto handler = [accepted = std::move(accepted)](const std::shared_ptr<Socket>& socket) {
    const Address peer{peer_host(*socket), socket->getPeerPort()};
    accepted(std::make_shared<SocketStream>(socket, peer.text()));
  };
  LOCKSTEP_ASSIGN(auto server, SocketServer::start(listen, sockets, handler));
  return std::unique_ptr<StreamListener>(std::make_unique<SocketStreamListener>(std::move(server)));
}

Result<std::shared_ptr<SocketByteStream>> make_stream(const Address& peer, int timeout_ms) {
  LOCKSTEP_ASSIGN(auto socket, connect_socket(peer, timeout_ms, "peer " + peer.text()));
  return std::shared_ptr<SocketByteStream>(
      std::make_shared<SocketStream>(std::move(socket), peer.text()));
}

}  // namespace lockstep
