#include <fmt/format.h>

#include <charconv>

#include "host/runtime/control.h"

namespace lockstep {
namespace {

// What names and addresses of hosts are written with, IPv6 with a zone too. "$(POD_IP)", which
// nobody has put an address in for, is none.
constexpr const char* kOfHosts =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]%";

}  // namespace

Result<Address> parse_address(const std::string& text, const std::string& flag) {
  const size_t colon = text.rfind(':');
  const auto wrong =
      usage_error(fmt::format("{} '{}': expected HOST:PORT, such as 127.0.0.1:7070", flag, text));
  if (colon == std::string::npos || colon == 0) return wrong;
  int port = -1;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data() + colon + 1, end, port);
  if (parsed.ec != std::errc() || parsed.ptr != end || port < 0 || port > 65535) return wrong;
  const std::string host = text.substr(0, colon);
  if (host.find_first_not_of(kOfHosts) != std::string::npos) {
    return usage_error(
        fmt::format("{} '{}': '{}' is no name or address of a host", flag, text, host));
  }
  return Address{host, port};
}

}  // namespace lockstep
