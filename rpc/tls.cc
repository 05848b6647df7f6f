#include "rpc/tls.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "host/core/files.h"
#include "rpc/sockets.h"

namespace lockstep {
namespace {

using Ssl = OpensslHandle<SSL, SSL_free>;
using End = TlsProgress::End;

constexpr size_t kReadBufferBytes = 128 << 10;
constexpr int kLastWordsMs = 500;

// What the check of a peer's certificate is given, and what it finds; of one handshake.
struct Verdict {
  const std::vector<Role>* roles;
  std::string job;
  std::string reason;  // of a refusal
};

std::string text_of(const ASN1_TIME* time) {
  const Memory memory(BIO_new(BIO_s_mem()));
  ASN1_TIME_print(memory.get(), time);
  return lockstep::text_of(memory.get());
}

std::string common_name(const X509_NAME* name) {
  char text[256] = "";
  X509_NAME_get_text_by_NID(const_cast<X509_NAME*>(name), NID_commonName, text, sizeof(text));
  return std::all_of(text, text + std::char_traits<char>::length(text),
                     [](unsigned char c) { return c >= ' ' && c < 127; })
             ? text
             : "?";
}

// "its certificate (node of job 'mnist') expired on Jan  1 00:00:00 2026 GMT".
std::string why_invalid(const X509* certificate, int error, int depth) {
  const auto identity = identity_of(certificate);
  const std::string what =
      fmt::format("{} ({})", depth == 0 ? "its certificate" : "the authority of its certificate",
                  identity ? identity->text() : common_name(X509_get_subject_name(certificate)));
  switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return fmt::format("{} expired on {}", what, text_of(X509_get0_notAfter(certificate)));
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return fmt::format("{} is not valid before {}; are the clocks right?", what,
                         text_of(X509_get0_notBefore(certificate)));
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
      return fmt::format("{} is signed by the foreign authority '{}', which is not in ca.crt", what,
                         common_name(X509_get_issuer_name(certificate)));
    default:
      return fmt::format("{} is not valid: {}", what, X509_verify_cert_error_string(error));
  }
}

// Empty: the holder of the certificate may be this peer.
std::string why_not(const X509* certificate, const Verdict& verdict) {
  const auto identity = identity_of(certificate);
  if (!identity) return "its certificate names no job and role; 'lockstep certs' makes such";
  if (identity->job != verdict.job) {
    return fmt::format("its certificate is of a {}, not of job '{}'", identity->text(),
                       verdict.job);
  }
  std::string wanted;
  for (const Role role : *verdict.roles) {
    if (role == identity->role) return "";
    wanted += fmt::format("{}{}", wanted.empty() ? "" : " or ", role_name(role));
  }
  return fmt::format("its certificate is of a {}, and only a {} may be here", identity->text(),
                     wanted);
}

int check_certificate(int valid, X509_STORE_CTX* store) {
  const auto* ssl = static_cast<const SSL*>(
      X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto* verdict = static_cast<Verdict*>(SSL_get_app_data(ssl));
  const X509* certificate = X509_STORE_CTX_get_current_cert(store);
  const int depth = X509_STORE_CTX_get_error_depth(store);
  if (verdict == nullptr || certificate == nullptr) return 0;
  if (valid == 0) {
    verdict->reason = why_invalid(certificate, X509_STORE_CTX_get_error(store), depth);
    return 0;
  }
  if (depth > 0) return 1;
  verdict->reason = why_not(certificate, *verdict);
  if (verdict->reason.empty()) return 1;
  X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
  return 0;
}

// What the other end's alert means, if it is about our certificate; null if not.
const char* refusal_in_alert(int reason) {
  switch (reason) {
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
      return "it has expired";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
      return "it is signed by an authority that is foreign there";
    case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE:
      return "it is of another job or role; the log there says which";
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
      return "the log there says why";
    default:
      return nullptr;
  }
}

// For the last failed call on `ssl`, whose result SSL_get_error has made `code` of.
TlsProgress failure(int code) {
  const unsigned long error = ERR_peek_error();
  if (code == SSL_ERROR_ZERO_RETURN) return {End::closed};
  if (code == SSL_ERROR_SYSCALL && error == 0) {
    if (errno == 0 || errno == EPIPE || errno == ECONNRESET) return {End::closed};
    return {End::failed, 0, errno_text()};
  }
  const int reason = ERR_GET_REASON(error);
  if (reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) return {End::closed};
  if (const char* refusal = refusal_in_alert(reason)) {
    return {End::refused, 0, fmt::format("it does not take our certificate: {}", refusal)};
  }
  switch (reason) {
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      return {End::refused, 0, "it showed no certificate"};
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_UNKNOWN_PROTOCOL:
      return {End::failed, 0, "it does not speak TLS"};
    case SSL_R_UNSUPPORTED_PROTOCOL:
      return {End::failed, 0, "it speaks a version of TLS before 1.2"};
    default:
      return {End::failed, 0, openssl_error()};
  }
}

// Whether the socket has become ready in time; a broken one is ready.
bool wait_for(int descriptor, int code, int timeout_ms) {
  pollfd waiting{descriptor, static_cast<short>(code == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN),
                 0};
  const Deadline deadline = deadline_in(timeout_ms);
  while (true) {
    const int ready = ::poll(&waiting, 1, timeout_ms == 0 ? -1 : ms_until(deadline));
    if (ready >= 0) return ready > 0;
    if (errno != EINTR) return true;
  }
}

bool must_wait(int code) { return code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE; }

// What was refused gets the alert that says why: closing at once, with bytes unread, could take it
// back. Bounded in time.
void speak_last_words(int descriptor) {
  shutdown(descriptor, SHUT_WR);
  const Deadline deadline = deadline_in(kLastWordsMs);
  char rest[4096];
  while (ms_until(deadline) > 0 && wait_for(descriptor, SSL_ERROR_WANT_READ, ms_until(deadline))) {
    if (recv(descriptor, rest, sizeof(rest), MSG_DONTWAIT) <= 0) return;
  }
}

Status check_key_file(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return file_error("read", path);
  if ((info.st_mode & S_IRWXO) == 0) return {};
  return Error{fmt::format("{}: everyone on this machine may read this key; chmod 600 it", path)};
}

Error bad_file(const std::string& path, const std::string& what) {
  return Error{fmt::format("{}: {} ({}); 'lockstep certs' makes it", path, what, openssl_error())};
}

// Differs where one of the files was replaced or written to.
std::string stamp_of(const std::string& folder) {
  std::string stamp;
  for (const char* name : {"/ca.crt", "/tls.crt", "/tls.key"}) {
    struct stat info {};
    if (stat((folder + name).c_str(), &info) != 0) continue;
    stamp += fmt::format("{} {} {} {}.{:09} ", name, info.st_ino, info.st_size, info.st_mtim.tv_sec,
                         info.st_mtim.tv_nsec);
  }
  return stamp;
}

Status load_files(SSL_CTX* context, const std::string& folder) {
  const std::string key = folder + "/tls.key";
  const std::string chain = folder + "/tls.crt";
  const std::string trusted = folder + "/ca.crt";
  for (const std::string& path : {key, chain, trusted}) {
    if (!file_exists(path)) {
      return Error{fmt::format("--tls {}: it holds no {}; 'lockstep certs' makes such folders",
                               folder, path.substr(folder.size() + 1))};
    }
  }
  LOCKSTEP_RETURN_IF_ERROR(check_key_file(key));
  if (SSL_CTX_load_verify_file(context, trusted.c_str()) != 1) {
    return bad_file(trusted, "no certificates of authorities");
  }
  if (SSL_CTX_use_certificate_chain_file(context, chain.c_str()) != 1) {
    return bad_file(chain, "no certificate");
  }
  if (SSL_CTX_use_PrivateKey_file(context, key.c_str(), SSL_FILETYPE_PEM) != 1) {
    return bad_file(key, "no key of the certificate beside it");
  }
  return {};
}

}  // namespace

TlsProgress TlsSession::read_some(void* data, size_t bytes, int timeout_ms) {
  while (true) {
    int code = SSL_ERROR_NONE;
    {
      const std::lock_guard lock(mutex_);
      ERR_clear_error();
      errno = 0;
      size_t received = 0;
      const int result = SSL_read_ex(ssl_.get(), data, bytes, &received);
      if (result == 1) return {End::none, received};
      code = SSL_get_error(ssl_.get(), result);
      if (!must_wait(code)) return failure(code);
    }
    if (!wait_for(descriptor_, code, timeout_ms)) return {End::timed_out};
  }
}

TlsProgress TlsSession::write_all(const void* data, size_t bytes, int timeout_ms) {
  size_t done = 0;
  while (done < bytes) {
    int code = SSL_ERROR_NONE;
    {
      const std::lock_guard lock(mutex_);
      ERR_clear_error();
      errno = 0;
      size_t sent = 0;
      const int result =
          SSL_write_ex(ssl_.get(), static_cast<const char*>(data) + done, bytes - done, &sent);
      done += result == 1 ? sent : 0;
      if (result == 1) continue;
      code = SSL_get_error(ssl_.get(), result);
      if (!must_wait(code)) return failure(code);
    }
    if (!wait_for(descriptor_, code, timeout_ms)) return {End::timed_out};
  }
  return {End::none, done};
}

Result<TlsContext::Files> TlsContext::read(const std::string& folder) {
  Handle context(SSL_CTX_new(TLS_method()));
  LOCKSTEP_CHECK(context != nullptr);
  LOCKSTEP_CHECK(SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION) == 1);
  // Each connection shows its certificates: none is resumed, none negotiated again.
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context.get(), 0);
  SSL_CTX_set_options(context.get(),
                      SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(context.get(),
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(context.get(), 1);
  SSL_CTX_set_default_read_buffer_len(context.get(), kReadBufferBytes);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                     check_certificate);
  ERR_clear_error();
  LOCKSTEP_RETURN_IF_ERROR(load_files(context.get(), folder));
  const auto self = identity_of(SSL_CTX_get0_certificate(context.get()));
  if (!self) {
    return Error{
        fmt::format("{}/tls.crt: it names no job and role; 'lockstep certs' makes such", folder)};
  }
  return Files{std::move(context), *self};
}

Result<std::shared_ptr<const TlsContext>> TlsContext::load(
    const std::string& folder, std::function<void(const std::string&)> log) {
  std::string stamp = stamp_of(folder);  // first: what changes from here on is read again
  LOCKSTEP_ASSIGN(Files files, read(folder));
  return std::shared_ptr<const TlsContext>(
      new TlsContext(folder, std::move(files), std::move(stamp), std::move(log)));
}

// Where the files have changed; under the lock.
void TlsContext::read_again() const {
  std::string stamp = stamp_of(folder_);
  if (stamp == stamp_) return;
  stamp_ = std::move(stamp);
  auto files = read(folder_);
  std::string line;
  if (!files.ok()) {
    line = fmt::format("the certificates of before still count: {}", files.error().message);
  } else if (files->self.uri() != self_.uri()) {
    line = fmt::format("the certificates of before still count: {}/tls.crt is now of a {}", folder_,
                       files->self.text());
  } else {
    context_ = std::move(files->context);
    line = fmt::format("new certificates in {}: connections use them from now on", folder_);
  }
  if (log_) log_(line);
}

Result<std::unique_ptr<TlsSession>> TlsContext::accept(int descriptor,
                                                       const std::vector<Role>& roles,
                                                       Deadline deadline) const {
  return handshake(descriptor, roles, deadline, true);
}

Result<std::unique_ptr<TlsSession>> TlsContext::connect(int descriptor,
                                                        const std::vector<Role>& roles,
                                                        Deadline deadline) const {
  return handshake(descriptor, roles, deadline, false);
}

Result<std::unique_ptr<TlsSession>> TlsContext::handshake(int descriptor,
                                                          const std::vector<Role>& roles,
                                                          Deadline deadline, bool server) const {
  const int flags = fcntl(descriptor, F_GETFL);
  fcntl(descriptor, F_SETFL, flags | O_NONBLOCK);
  Ssl ssl;
  {
    const std::lock_guard lock(mutex_);
    read_again();
    ssl.reset(SSL_new(context_.get()));  // keeps the context
  }
  if (ssl == nullptr || SSL_set_fd(ssl.get(), descriptor) != 1) return Error{openssl_error()};
  Verdict verdict{&roles, self_.job, ""};
  SSL_set_app_data(ssl.get(), &verdict);
  if (server) {
    SSL_set_accept_state(ssl.get());
  } else {
    SSL_set_connect_state(ssl.get());
  }
  while (true) {
    ERR_clear_error();
    errno = 0;
    const int result = SSL_do_handshake(ssl.get());
    if (result == 1) break;
    const int code = SSL_get_error(ssl.get(), result);
    if (must_wait(code)) {
      const int left_ms = ms_until(deadline);
      if (left_ms > 0 && wait_for(descriptor, code, left_ms)) continue;
      return Error{"it did not finish the handshake of TLS in time"};
    }
    const TlsProgress end = failure(code);
    if (end.end == End::closed)
      return Error{"it closed the connection during the handshake of TLS"};
    speak_last_words(descriptor);
    if (!verdict.reason.empty()) return refused_error(verdict.reason);
    return Error{end.why, end.end == End::refused ? ErrorKind::refused : ErrorKind::failed};
  }
  SSL_set_app_data(ssl.get(), nullptr);
  const auto peer = identity_of(SSL_get0_peer_certificate(ssl.get()));
  if (!peer) return refused_error("its certificate names no job and role");
  return std::make_unique<TlsSession>(std::move(ssl), descriptor, *peer);
}

}  // namespace lockstep
