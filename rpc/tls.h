// Mutual TLS, 1.2 or later, for control and tensor streams. Both ends show a certificate; who may
// talk to whom stands in it.
#pragma once

#include <chrono>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "rpc/identity.h"
#include "rpc/openssl.h"

namespace lockstep {

// How a read or write ended. `refused`: the other end does not take our certificate.
struct TlsProgress {
  enum class End { none, closed, timed_out, refused, failed };
  End end = End::none;
  size_t bytes = 0;
  std::string why;  // of refused and failed
};

// An established connection. Two threads may use it at once, one that reads and one that writes:
// OpenSSL's calls take turns, waiting for the peer is outside.
class TlsSession {
 public:
  TlsSession(OpensslHandle<SSL, SSL_free> ssl, int descriptor, Identity peer)
      : ssl_(std::move(ssl)), descriptor_(descriptor), peer_(std::move(peer)) {}

  const Identity& peer() const { return peer_; }
  // At least one byte, within `timeout_ms` (0: for ever).
  TlsProgress read_some(void* data, size_t bytes, int timeout_ms);
  // All of it; `timeout_ms` may pass without progress.
  TlsProgress write_all(const void* data, size_t bytes, int timeout_ms);

 private:
  const OpensslHandle<SSL, SSL_free> ssl_;
  const int descriptor_;  // somebody else's, who outlives this
  const Identity peer_;
  std::mutex mutex_;
};

// A folder's certificate, key and authorities.
class TlsContext {
 public:
  // DIR holds `ca.crt` (the authorities to trust, one or more), `tls.crt` and `tls.key`, as
  // `lockstep certs` and Kubernetes' Secrets name them. A key that everyone on the machine can read
  // is refused.
  static Result<std::shared_ptr<const TlsContext>> load(const std::string& folder);

  const Identity& self() const { return self_; }
  // The handshake on a connected socket, whole before the deadline: the peer's certificate must
  // be signed by one of the authorities, valid today, of this job and of one of `roles`. The error
  // says what it was, of kind `refused` where certificates were. The socket becomes non-blocking.
  Result<std::unique_ptr<TlsSession>> accept(int descriptor, const std::vector<Role>& roles,
                                             std::chrono::steady_clock::time_point deadline) const;
  Result<std::unique_ptr<TlsSession>> connect(int descriptor, const std::vector<Role>& roles,
                                              std::chrono::steady_clock::time_point deadline) const;

 private:
  using Handle = OpensslHandle<SSL_CTX, SSL_CTX_free>;
  TlsContext(Handle context, Identity self)
      : context_(std::move(context)), self_(std::move(self)) {}
  Result<std::unique_ptr<TlsSession>> handshake(int descriptor, const std::vector<Role>& roles,
                                                std::chrono::steady_clock::time_point deadline,
                                                bool server) const;

  const Handle context_;
  const Identity self_;
};

}  // namespace lockstep
