// Tensor streams: bytes over the sockets that Thrift connects and accepts, read and written without
// a copy in between, in plain or under TLS.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "host/runtime/stream.h"
#include "rpc/tls.h"

namespace lockstep {

// A stream over a socket of its own.
class SocketByteStream : public ByteStream {
 public:
  // Whether the connection still stands, without waiting. Any thread.
  virtual bool alive() = 0;
  // Whether both ends have the same address: they run on one host.
  virtual bool same_host() = 0;
};

struct StreamListenerOptions {
  int max_callbacks = 512;  // that run at once; connections beyond are closed
  int max_strangers = 64;   // of these, whose stream nobody has admitted: one more ends the oldest
  std::shared_ptr<const TlsContext> tls = nullptr;   // null: in plain; only nodes connect
  std::function<void(const std::string&)> log = {};  // who was refused; any thread
};

// The listener's destructor stops accepting, closes the streams whose callbacks still run, and
// waits for these callbacks; streams that have outlived their callback belong to whoever holds
// them. A callback must return once its stream is closed.
Result<std::unique_ptr<StreamListener>> make_stream_listener(
    const Address& listen, std::function<void(std::shared_ptr<SocketByteStream>)> accepted,
    StreamListenerOptions options = {});

// One attempt. The socket closes when the last holder lets go of the stream. Writing waits for as
// long as the peer's machine answers: close() ends it.
Result<std::shared_ptr<SocketByteStream>> make_stream(
    const Address& peer, int timeout_ms, const std::shared_ptr<const TlsContext>& tls = nullptr);

}  // namespace lockstep
