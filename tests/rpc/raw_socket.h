// A TCP connection without Thrift: for tests that say what no client would.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

namespace lockstep {

class RawSocket {
 public:
  explicit RawSocket(int port) : descriptor_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~RawSocket() { ::close(descriptor_); }
  RawSocket(const RawSocket&) = delete;
  RawSocket& operator=(const RawSocket&) = delete;

  bool connected() const { return connected_; }
  int descriptor() const { return descriptor_; }
  bool send(const std::string& bytes) {
    return ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  // What arrives until the peer closes; false when it has not within `timeout_ms`.
  bool wait_for_close(int timeout_ms, std::string* received = nullptr) {
    pollfd waiting{descriptor_, POLLIN, 0};
    while (poll(&waiting, 1, timeout_ms) > 0) {
      char buffer[4096];
      const ssize_t bytes = recv(descriptor_, buffer, sizeof(buffer), 0);
      if (bytes <= 0) return true;
      if (received != nullptr) received->append(buffer, static_cast<size_t>(bytes));
    }
    return false;
  }

 private:
  int descriptor_;
  bool connected_ = false;
};

// Thrift's binary protocol by hand.
inline std::string big_endian(uint32_t value) {
  const uint32_t wired = htonl(value);
  return std::string(reinterpret_cast<const char*>(&wired), sizeof(wired));
}
inline std::string call_header(const std::string& name) {
  return big_endian(0x80010001u) + big_endian(static_cast<uint32_t>(name.size())) + name +
         big_endian(1);
}
inline std::string field(char type, char id) { return std::string{type, '\0', id}; }
inline constexpr char kI64 = 10;
inline constexpr char kString = 11;
inline constexpr char kStruct = 12;
inline constexpr char kList = 15;

}  // namespace lockstep
