// A Thrift socket that speaks TLS once the handshake is done.
#pragma once

#include <thrift/transport/TSocket.h>

#include <memory>

#include "rpc/tls.h"

namespace lockstep {

// The peer does not take our certificate.
class CertificateRefused : public apache::thrift::transport::TTransportException {
 public:
  explicit CertificateRefused(const std::string& why)
      : TTransportException(TTransportException::NOT_OPEN, why) {}
};

// Plain until start(), which nobody may call while another thread uses the socket.
class TlsSocket final : public apache::thrift::transport::TSocket {
 public:
  using TSocket::TSocket;

  void start(std::unique_ptr<TlsSession> session) { session_ = std::move(session); }
  // Null before start().
  TlsSession* session() const { return session_.get(); }

  uint32_t read(uint8_t* buffer, uint32_t bytes) override;
  void write(const uint8_t* buffer, uint32_t bytes) override;
  uint32_t write_partial(const uint8_t* buffer, uint32_t bytes) override;

 private:
  std::unique_ptr<TlsSession> session_;
};

}  // namespace lockstep
