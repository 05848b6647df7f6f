// Tensor streams: plain bytes over the sockets that Thrift connects and accepts, read and written
// without a copy in between.
#pragma once

#include <functional>
#include <memory>

#include "host/runtime/stream.h"

namespace lockstep {

struct StreamListenerOptions {
  int max_callbacks = 512;  // that run at once; connections beyond are closed
};

// The listener's destructor stops accepting, closes the streams whose callbacks still run, and
// waits for these callbacks; streams that have outlived their callback belong to whoever holds
// them. A callback must return once its stream is closed.
Result<std::unique_ptr<StreamListener>> make_stream_listener(
    const Address& listen, std::function<void(std::shared_ptr<ByteStream>)> accepted,
    StreamListenerOptions options = {});

// One attempt. The socket closes when the last holder lets go of the stream. Writing waits for as
// long as the peer's machine answers: close() ends it.
Result<std::shared_ptr<ByteStream>> make_stream(const Address& peer, int timeout_ms);

}  // namespace lockstep
