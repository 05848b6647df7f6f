// What Thrift's control messages are read from and written to, at both ends.
#pragma once

#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/transport/TBufferTransports.h>

#include <memory>

#include "rpc/sockets.h"

namespace lockstep {

// A buffered socket that differs from Thrift's own in four ways: a connection may carry any number
// of bytes, while each message is limited; a message has a deadline, however slowly its bytes
// drip; large bodies go straight to where they belong; the buffer is 64 KiB, not 512 bytes.
// One thread uses it.
class MessageTransport final : public apache::thrift::transport::TBufferedTransport {
 public:
  static constexpr int kMaxMessageBytes = 64 << 20;

  // A message may begin after any silence up to `idle_timeout_ms`; then it has
  // `message_timeout_ms`.
  MessageTransport(std::shared_ptr<Socket> socket, int idle_timeout_ms, int message_timeout_ms);
  // The next message must be there by then, its beginning included.
  void expect_message_by(Deadline deadline);

  uint32_t readSlow(uint8_t* buffer, uint32_t bytes) override;
  uint32_t readEnd() override;

 private:
  uint32_t receive(uint8_t* buffer, uint32_t bytes);

  const std::shared_ptr<Socket> socket_;
  const int idle_timeout_ms_;
  const int message_timeout_ms_;
  bool has_deadline_ = false;
  Deadline deadline_;
  int64_t message_bytes_ = 0;
};

using MessageProtocol = apache::thrift::protocol::TBinaryProtocolT<MessageTransport>;
inline constexpr int kMaxStringBytes = 8 << 20;
inline constexpr int kMaxElements = 1 << 20;

// With the limits, without which eight bytes make generated code reserve gigabytes.
std::shared_ptr<MessageProtocol> make_protocol(std::shared_ptr<MessageTransport> transport);

}  // namespace lockstep
