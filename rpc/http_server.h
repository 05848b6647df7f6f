// A few small pages over HTTP, for monitoring systems: GET only, one request a connection.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "host/core/result.h"
#include "host/runtime/control.h"

namespace lockstep {

struct HttpAnswer {
  int code = 200;
  std::string type = "text/plain; charset=utf-8";
  std::string body;
};
// `path` is what stands behind the host, without a query. Called on many threads.
using HttpHandler = std::function<HttpAnswer(const std::string& path)>;

struct HttpServerOptions {
  int max_connections = 16;        // one more ends the oldest
  int request_timeout_ms = 2'000;  // for the whole of a request
};

class HttpServer {
 public:
  virtual ~HttpServer() = default;  // waits for the handlers that run
  virtual int port() const = 0;
};

// Serves until destroyed. Fails when the address cannot be had, naming it.
Result<std::unique_ptr<HttpServer>> make_http_server(const Address& listen, HttpHandler handler,
                                                     HttpServerOptions options = {});

// One request to such a server.
Result<HttpAnswer> http_get(const Address& address, const std::string& path, int timeout_ms);

}  // namespace lockstep
