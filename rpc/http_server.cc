#include "rpc/http_server.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <cstdio>
#include <optional>
#include <utility>

#include "rpc/sockets.h"

namespace lockstep {
namespace {

constexpr size_t kMaxRequestBytes = 8 << 10;

const char* reason_of(int code) {
  switch (code) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    default:
      return "Service Unavailable";
  }
}

// Up to the empty line behind the headers; none if that does not come in time, or is too far.
std::optional<std::string> read_request(Socket& socket, Deadline deadline) {
  std::string request;
  char part[1024];
  while (request.find("\r\n\r\n") == std::string::npos) {
    const int left_ms = ms_until(deadline);
    if (left_ms == 0 || request.size() > kMaxRequestBytes) return std::nullopt;
    socket.setRecvTimeout(left_ms);
    const uint32_t bytes = socket.read(reinterpret_cast<uint8_t*>(part), sizeof(part));
    if (bytes == 0) return std::nullopt;
    request.append(part, bytes);
  }
  return request;
}

// "GET /metrics?x=y HTTP/1.1" asks for /metrics.
HttpAnswer answer_to(const std::string& request, const HttpHandler& handler) {
  const std::string line = request.substr(0, request.find("\r\n"));
  const size_t first = line.find(' ');
  const size_t second = line.find(' ', first + 1);
  if (first == std::string::npos || second == std::string::npos ||
      line.compare(second + 1, 7, "HTTP/1.") != 0) {
    return {400, "text/plain", "not a request of HTTP/1\n"};
  }
  if (line.compare(0, first, "GET") != 0) return {405, "text/plain", "only GET\n"};
  const std::string target = line.substr(first + 1, second - first - 1);
  return handler(target.substr(0, target.find('?')));
}

class SocketHttpServer final : public HttpServer {
 public:
  explicit SocketHttpServer(std::unique_ptr<SocketServer> server) : server_(std::move(server)) {}
  int port() const override { return server_->port(); }

 private:
  const std::unique_ptr<SocketServer> server_;
};

}  // namespace

Result<std::unique_ptr<HttpServer>> make_http_server(const Address& listen, HttpHandler handler,
                                                     HttpServerOptions options) {
  SocketServer::Options sockets;
  sockets.max_connections = 2 * options.max_connections;  // those that end, and the new ones
  sockets.max_strangers = options.max_connections;
  sockets.send_timeout_ms = options.request_timeout_ms;
  const auto serve = [handler = std::move(handler), options](const Visitor& visitor) {
    try {
      Socket& socket = *visitor.socket;
      const auto request = read_request(socket, deadline_in(options.request_timeout_ms));
      if (!request) return;
      const HttpAnswer answer = answer_to(*request, handler);
      const std::string text = fmt::format(
          "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
          answer.code, reason_of(answer.code), answer.type, answer.body.size(), answer.body);
      socket.write(reinterpret_cast<const uint8_t*>(text.data()),
                   static_cast<uint32_t>(text.size()));
    } catch (const std::exception&) {
      // Whoever asked has gone.
    }
  };
  LOCKSTEP_ASSIGN(auto server, SocketServer::start(listen, sockets, serve));
  return std::unique_ptr<HttpServer>(std::make_unique<SocketHttpServer>(std::move(server)));
}

Result<HttpAnswer> http_get(const Address& address, const std::string& path, int timeout_ms) {
  const std::string who = fmt::format("http://{}{}", address.text(), path);
  const Deadline deadline = deadline_in(timeout_ms);
  LOCKSTEP_ASSIGN(const auto socket, connect_socket(address, timeout_ms, who));
  std::string text;
  try {
    const std::string request =
        fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", path, address.host);
    socket->write(reinterpret_cast<const uint8_t*>(request.data()),
                  static_cast<uint32_t>(request.size()));
    char part[4096];
    while (true) {
      const int left_ms = ms_until(deadline);
      if (left_ms == 0) return Error{fmt::format("{}: no answer in {} ms", who, timeout_ms)};
      socket->setRecvTimeout(left_ms);
      const uint32_t bytes = socket->read(reinterpret_cast<uint8_t*>(part), sizeof(part));
      if (bytes == 0) break;
      text.append(part, bytes);
    }
  } catch (const std::exception& failure) {
    return Error{fmt::format("{}: {}", who, failure.what())};
  }
  HttpAnswer answer;
  const size_t body = text.find("\r\n\r\n");
  if (std::sscanf(text.c_str(), "HTTP/1.%*d %d", &answer.code) != 1 || body == std::string::npos) {
    return Error{fmt::format("{}: no answer of HTTP/1", who)};
  }
  answer.body = text.substr(body + 4);
  return answer;
}

}  // namespace lockstep
