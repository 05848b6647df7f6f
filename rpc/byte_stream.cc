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
#include "rpc/page_pipe.h"
#include "rpc/sockets.h"

namespace lockstep {
namespace {

// A machine that is gone, or a link that is cut, is noticed after this long, by keepalive or by
// unanswered data. The kernel answers for a process that is only slow.
constexpr int kDeadPeerSeconds = 3;

// Shorter bodies are sooner copied than their pages lent.
constexpr size_t kLeastByReference = 128 << 10;

void set_option(int descriptor, int level, int option, int value) {
  // Failing costs speed or an earlier notice, never a byte.
  static_cast<void>(setsockopt(descriptor, level, option, &value, sizeof(value)));
}

// What plain streams and those under TLS have in common.
class SocketStream : public SocketByteStream {
 public:
  SocketStream(std::shared_ptr<Socket> socket, std::string peer, std::function<void()> admit)
      : socket_(std::move(socket)),
        descriptor_(socket_->getSocketFD()),
        peer_(std::move(peer)),
        admit_(std::move(admit)) {
    set_option(descriptor_, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(descriptor_, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(descriptor_, IPPROTO_TCP, TCP_KEEPIDLE, 1);
    set_option(descriptor_, IPPROTO_TCP, TCP_KEEPINTVL, 1);
    set_option(descriptor_, IPPROTO_TCP, TCP_KEEPCNT, kDeadPeerSeconds - 1);
    set_option(descriptor_, IPPROTO_TCP, TCP_USER_TIMEOUT, kDeadPeerSeconds * 1000);
  }

  void admit() override {
    if (admit_) admit_();
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

 protected:
  Socket& socket() const { return *socket_; }
  int descriptor() const { return descriptor_; }
  bool closed() const { return closed_; }

  Error failure(const std::string& what) const {
    return {fmt::format("peer {}: {}", peer_, closed_ ? "stream closed here" : what)};
  }
  Error closed_by_peer() const { return failure("connection closed by the peer"); }
  Error too_slow(int timeout_ms) const {
    return failure(fmt::format("silent for {} ms", timeout_ms));
  }

 private:
  const std::shared_ptr<Socket> socket_;
  const int descriptor_;
  const std::string peer_;
  const std::function<void()> admit_;
  std::atomic<bool> closed_{false};
};

class PlainStream final : public SocketStream {
 public:
  using SocketStream::SocketStream;

  Status read(void* data, size_t bytes, int timeout_ms) override {
    const Deadline deadline = deadline_in(timeout_ms);
    auto* next = static_cast<char*>(data);
    while (bytes > 0) {
      if (closed()) return closed_by_peer();
      const ssize_t received =
          recv(descriptor(), next, bytes, timeout_ms == 0 ? MSG_WAITALL : MSG_DONTWAIT);
      if (received > 0) {
        next += received;
        bytes -= static_cast<size_t>(received);
      } else if (received == 0) {
        return closed_by_peer();
      } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
        LOCKSTEP_RETURN_IF_ERROR(wait_for_bytes(deadline, timeout_ms));
      } else if (errno != EINTR) {
        return failure_of_call();
      }
    }
    return {};
  }

  Status write(const void* header, size_t header_bytes, const void* body,
               size_t body_bytes) override {
    return send_copies(header, header_bytes, body, body_bytes, 0);
  }

  Status write_lasting(const void* header, size_t header_bytes, const void* body, size_t body_bytes,
                       const Lasting&) override {
    const bool lends = lends_ && body_bytes >= kLeastByReference;
    if (lends && pages_ == nullptr) pages_ = PagePipe::make();  // not for strangers
    if (!lends || pages_ == nullptr) {
      return write(header, header_bytes, body, body_bytes);
    }
    LOCKSTEP_RETURN_IF_ERROR(send_copies(header, header_bytes, nullptr, 0, MSG_MORE));
    const auto* next = static_cast<const char*>(body);
    while (body_bytes > 0) {
      if (closed()) return closed_by_peer();
      const ssize_t taken = pages_->take(next, body_bytes);
      if (taken <= 0) {  // this memory cannot be lent: nor will the rest
        lends_ = false;
        return send_copies(nullptr, 0, next, body_bytes, 0);
      }
      next += taken;
      body_bytes -= static_cast<size_t>(taken);
      if (!pages_->send(descriptor(), body_bytes > 0)) return failure_of_call();
    }
    return {};
  }

 private:
  Status send_copies(const void* header, size_t header_bytes, const void* body, size_t body_bytes,
                     int flags) {
    iovec parts[2] = {{const_cast<void*>(header), header_bytes},
                      {const_cast<void*>(body), body_bytes}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    size_t left = header_bytes + body_bytes;
    while (left > 0) {
      if (closed()) return closed_by_peer();
      const ssize_t sent = sendmsg(descriptor(), &message, MSG_NOSIGNAL | flags);
      if (sent < 0) {
        if (errno == EINTR) continue;
        return failure_of_call();
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

  // Returns when there is something to read, the end of the stream included.
  Status wait_for_bytes(Deadline deadline, int timeout_ms) {
    pollfd waiting{descriptor(), POLLIN, 0};
    while (true) {
      const int ready = ::poll(&waiting, 1, timeout_ms == 0 ? -1 : ms_until(deadline));
      if (ready > 0) return {};
      if (ready < 0 && errno != EINTR) return failure_of_call();
      if (ready == 0) return too_slow(timeout_ms);
    }
  }

  // For the calling thread's errno.
  Error failure_of_call() const {
    if (errno == EPIPE || errno == ECONNRESET) return closed_by_peer();
    return failure(errno_text());
  }

  std::unique_ptr<PagePipe> pages_;  // the writing thread's
  bool lends_ = true;
};

class TlsStream final : public SocketStream {
 public:
  using SocketStream::SocketStream;

  Status read(void* data, size_t bytes, int timeout_ms) override {
    const Deadline deadline = deadline_in(timeout_ms);
    auto* next = static_cast<char*>(data);
    while (bytes > 0) {
      const int left_ms = ms_until(deadline);
      if (timeout_ms > 0 && left_ms == 0) return too_slow(timeout_ms);
      const TlsProgress progress = session().read_some(next, bytes, timeout_ms > 0 ? left_ms : 0);
      if (progress.end != TlsProgress::End::none) return failure_of(progress, timeout_ms);
      next += progress.bytes;
      bytes -= progress.bytes;
    }
    return {};
  }

  Status write(const void* header, size_t header_bytes, const void* body,
               size_t body_bytes) override {
    LOCKSTEP_RETURN_IF_ERROR(write_part(header, header_bytes));
    return write_part(body, body_bytes);
  }

 private:
  TlsSession& session() const { return *static_cast<TlsSocket&>(socket()).session(); }

  Status write_part(const void* data, size_t bytes) {
    const TlsProgress progress = session().write_all(data, bytes, 0);
    if (progress.end != TlsProgress::End::none) return failure_of(progress, 0);
    return {};
  }

  Error failure_of(const TlsProgress& progress, int timeout_ms) const {
    switch (progress.end) {
      case TlsProgress::End::closed:
        return closed_by_peer();
      case TlsProgress::End::timed_out:
        return too_slow(timeout_ms);
      default:
        return failure(progress.why);
    }
  }
};

// Under TLS where the socket speaks it.
std::shared_ptr<SocketByteStream> stream_over(std::shared_ptr<Socket> socket, std::string peer,
                                              std::function<void()> admit = {}) {
  if (static_cast<TlsSocket&>(*socket).session() != nullptr) {
    return std::make_shared<TlsStream>(std::move(socket), std::move(peer), std::move(admit));
  }
  return std::make_shared<PlainStream>(std::move(socket), std::move(peer), std::move(admit));
}

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
  sockets.max_strangers = options.max_strangers;
  sockets.admission = {options.tls, {Role::node}};
  sockets.log = options.log;
  const auto handler = [accepted = std::move(accepted)](const Visitor& visitor) {
    const Address peer{visitor.host, visitor.socket->getPeerPort()};
    accepted(stream_over(visitor.socket, peer.text(), visitor.admit));
  };
  LOCKSTEP_ASSIGN(auto server, SocketServer::start(listen, sockets, handler));
  return std::unique_ptr<StreamListener>(std::make_unique<SocketStreamListener>(std::move(server)));
}

Result<std::shared_ptr<SocketByteStream>> make_stream(
    const Address& peer, int timeout_ms, const std::shared_ptr<const TlsContext>& tls) {
  LOCKSTEP_ASSIGN(auto socket,
                  connect_socket(peer, timeout_ms, "peer " + peer.text(), {tls, {Role::node}}));
  return stream_over(std::move(socket), peer.text());
}

}  // namespace lockstep
