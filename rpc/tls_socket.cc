#include "rpc/tls_socket.h"

namespace lockstep {

using apache::thrift::transport::TTransportException;

namespace {

[[noreturn]] void raise(const TlsProgress& progress) {
  switch (progress.end) {
    case TlsProgress::End::timed_out:
      throw TTransportException(TTransportException::TIMED_OUT, "timed out");
    case TlsProgress::End::refused:
      throw CertificateRefused(progress.why);
    case TlsProgress::End::closed:
      throw TTransportException(TTransportException::END_OF_FILE, "closed by the peer");
    default:
      throw TTransportException(TTransportException::UNKNOWN, progress.why);
  }
}

}  // namespace

uint32_t TlsSocket::read(uint8_t* buffer, uint32_t bytes) {
  if (session_ == nullptr) return TSocket::read(buffer, bytes);
  const TlsProgress progress = session_->read_some(buffer, bytes, recvTimeout_);
  if (progress.end == TlsProgress::End::closed) return 0;
  if (progress.end != TlsProgress::End::none) raise(progress);
  return static_cast<uint32_t>(progress.bytes);
}

void TlsSocket::write(const uint8_t* buffer, uint32_t bytes) { write_partial(buffer, bytes); }

uint32_t TlsSocket::write_partial(const uint8_t* buffer, uint32_t bytes) {
  if (session_ == nullptr) return TSocket::write_partial(buffer, bytes);
  const TlsProgress progress = session_->write_all(buffer, bytes, sendTimeout_);
  if (progress.end != TlsProgress::End::none) raise(progress);
  return bytes;
}

}  // namespace lockstep
