#include "rpc/message_transport.h"

#include <algorithm>
#include <cstring>

namespace lockstep {

using apache::thrift::TConfiguration;
using apache::thrift::transport::TTransportException;

namespace {
constexpr uint32_t kBufferBytes = 64 << 10;
}

MessageTransport::MessageTransport(std::shared_ptr<Socket> socket, int idle_timeout_ms,
                                   int message_timeout_ms)
    : TBufferedTransport(socket, kBufferBytes, std::make_shared<TConfiguration>(kMaxMessageBytes)),
      socket_(std::move(socket)),
      idle_timeout_ms_(idle_timeout_ms),
      message_timeout_ms_(message_timeout_ms) {}

void MessageTransport::expect_message_by(Deadline deadline) {
  has_deadline_ = true;
  deadline_ = deadline;
}

uint32_t MessageTransport::readSlow(uint8_t* buffer, uint32_t bytes) {
  const auto buffered = static_cast<uint32_t>(rBound_ - rBase_);
  if (buffered > 0) {
    std::memcpy(buffer, rBase_, buffered);
    setReadBuffer(rBuf_.get(), 0);
    return buffered;
  }
  if (bytes >= rBufSize_) return receive(buffer, bytes);
  setReadBuffer(rBuf_.get(), receive(rBuf_.get(), rBufSize_));
  const uint32_t given = std::min(bytes, static_cast<uint32_t>(rBound_ - rBase_));
  std::memcpy(buffer, rBase_, given);
  rBase_ += given;
  return given;
}

uint32_t MessageTransport::receive(uint8_t* buffer, uint32_t bytes) {
  int timeout_ms = idle_timeout_ms_;
  if (has_deadline_) {
    timeout_ms = ms_until(deadline_);
    if (timeout_ms == 0) {
      throw TTransportException(TTransportException::TIMED_OUT, "message not complete in time");
    }
  }
  socket_->setRecvTimeout(timeout_ms);
  const uint32_t received = socket_->read(buffer, bytes);
  if (!has_deadline_) expect_message_by(deadline_in(message_timeout_ms_));
  message_bytes_ += received;
  if (message_bytes_ > kMaxMessageBytes) {
    throw TTransportException(TTransportException::CORRUPTED_DATA, "message too large");
  }
  return received;
}

uint32_t MessageTransport::readEnd() {
  // Thrift resets its count, which ends the connection at the limit, only where replies are
  // flushed.
  resetConsumedMessageSize();
  has_deadline_ = false;
  message_bytes_ = 0;
  return 0;
}

std::shared_ptr<MessageProtocol> make_protocol(std::shared_ptr<MessageTransport> transport) {
  return std::make_shared<MessageProtocol>(std::move(transport), kMaxStringBytes, kMaxElements,
                                           true, true);
}

}  // namespace lockstep
