// A stream of bytes between two nodes, for tensors; rpc/ implements it over Thrift's transports.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "host/core/result.h"
#include "host/runtime/control.h"

namespace lockstep {

// How long values stay as they are where they lie: while a count that only grows is at most `last`.
// Whoever has copied them asks afterwards whether it was in time.
struct Lasting {
  const std::atomic<int64_t>* count = nullptr;  // null: for ever
  int64_t last = 0;
  bool over() const {
    if (count == nullptr) return false;
    std::atomic_thread_fence(std::memory_order_acquire);
    return count->load() > last;
  }
};

// Two threads may use it at once, one that reads and one that writes.
class ByteStream {
 public:
  virtual ~ByteStream() = default;
  // Reads exactly `bytes`. Fails when the peer is gone, or when they are not all there within
  // `timeout_ms` (0: for ever).
  virtual Status read(void* data, size_t bytes, int timeout_ms) = 0;
  // Reads as many that nobody wants.
  virtual Status skip(size_t bytes) {
    std::array<char, 16 << 10> scratch;
    while (bytes > 0) {
      const size_t part = std::min(bytes, scratch.size());
      LOCKSTEP_RETURN_IF_ERROR(read(scratch.data(), part, 0));
      bytes -= part;
    }
    return {};
  }
  // Writes all of it, header and body in one system call where possible.
  virtual Status write(const void* header, size_t header_bytes, const void* body,
                       size_t body_bytes) = 0;
  // The same of a body that lasts for a while: it may still be read after the call, from where it
  // lies, instead of being copied. Where that was too late a stream in memory breaks, at either
  // end; on any other the peer reads what came later, and must notice.
  virtual Status write_lasting(const void* header, size_t header_bytes, const void* body,
                               size_t body_bytes, const Lasting&) {
    return write(header, header_bytes, body, body_bytes);
  }
  // The peer has said who it is: until then an accepted stream may be closed to make room for
  // others. Only in the listener's callback.
  virtual void admit() {}
  // Whether bytes go from memory to memory of one host: nothing on the way can change them.
  virtual bool in_memory() const { return false; }
  // Wakes both threads: their calls fail. Any thread may call it.
  virtual void close() = 0;
};

// Accepts streams until destroyed; each goes to the callback on a thread of its own, which ends
// with the callback's return.
class StreamListener {
 public:
  virtual ~StreamListener() = default;
  virtual int port() const = 0;
};

// What a coordinator that is there needs at most to take a connection.
inline constexpr int kConnectMs = 2000;

// How the runtime gets its connections; `main` passes the factory of rpc/.
class Network {
 public:
  virtual ~Network() = default;
  virtual Result<std::unique_ptr<ControlServer>> serve_control(const Address& listen,
                                                               ControlService& service) = 0;
  // One attempt to connect, at most `timeout_ms`.
  virtual Result<std::unique_ptr<ControlClient>> connect_control(const Address& coordinator,
                                                                 int timeout_ms) = 0;
  virtual Result<std::unique_ptr<StreamListener>> listen_streams(
      const Address& listen, std::function<void(std::shared_ptr<ByteStream>)> accepted) = 0;
  virtual Result<std::shared_ptr<ByteStream>> connect_stream(const Address& peer,
                                                             int timeout_ms) = 0;
};

}  // namespace lockstep
