// Mutual TLS, 1.2 or later, for control and tensor streams. Both ends show a certificate; who may
// talk to whom stands in it.
#pragma once

#include <chrono>
#include <functional>
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

// A folder's certificate, key and authorities. Files that change are read again before the next
// handshake; connections that stand go on. While what is there cannot be used (files are replaced
// one by one), what was there before counts. Any thread.
class TlsContext {
 public:
  // DIR holds `ca.crt` (the authorities to trust, one or more), `tls.crt` and `tls.key`, as
  // `lockstep certs` and Kubernetes' Secrets name them. A key that everyone on the machine can read
  // is refused. `log` is told, from any thread, what becomes of files that change.
  static Result<std::shared_ptr<const TlsContext>> load(
      const std::string& folder, std::function<void(const std::string&)> log = {});

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
  struct Files {
    Handle context;
    Identity self;
  };
  TlsContext(std::string folder, Files files, std::string stamp,
             std::function<void(const std::string&)> log)
      : folder_(std::move(folder)),
        self_(std::move(files.self)),
        log_(std::move(log)),
        context_(std::move(files.context)),
        stamp_(std::move(stamp)) {}
  static Result<Files> read(const std::string& folder);
  void read_again() const;
  Result<std::unique_ptr<TlsSession>> handshake(int descriptor, const std::vector<Role>& roles,
                                                std::chrono::steady_clock::time_point deadline,
                                                bool server) const;

  const std::string folder_;
  const Identity self_;
  const std::function<void(const std::string&)> log_;
  mutable std::mutex mutex_;
  mutable Handle context_;     // guarded by mutex_
  mutable std::string stamp_;  // of the files that were read last; guarded by mutex_
};

}  // namespace lockstep
