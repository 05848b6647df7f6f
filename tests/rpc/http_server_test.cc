// The pages for monitoring systems, and what strangers can do to them.
#include "rpc/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/rpc/fake_service.h"
#include "tests/rpc/raw_socket.h"

namespace lockstep {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

class HttpServerTest : public testing::Test {
 protected:
  void start(HttpServerOptions options = {}) {
    auto made = make_http_server(
        kAnyPort,
        [](const std::string& path) {
          return path == "/here" ? HttpAnswer{200, "text/plain", "hello\n"}
                                 : HttpAnswer{404, "text/plain", "no\n"};
        },
        options);
    ASSERT_TRUE(made.ok()) << made.error().message;
    server_ = std::move(made).value();
  }
  std::string ask(const std::string& request) {
    RawSocket socket(server_->port());
    socket.send(request);
    std::string answer;
    EXPECT_TRUE(socket.wait_for_close(3000, &answer));
    return answer;
  }

  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersGet) {
  start();
  const std::string answer = ask("GET /here?x=1 HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("Content-Length: 6\r\n"));
  EXPECT_THAT(answer, HasSubstr("\r\n\r\nhello\n"));
  EXPECT_THAT(ask("GET /elsewhere HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(ask("POST /here HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(ask("nonsense\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
  const auto got = http_get({"127.0.0.1", server_->port()}, "/here", 2000);
  ASSERT_TRUE(got.ok()) << got.error().message;
  EXPECT_EQ(got->code, 200);
  EXPECT_EQ(got->body, "hello\n");
}

TEST_F(HttpServerTest, SlowAndLongRequestsEnd) {
  HttpServerOptions options;
  options.request_timeout_ms = 200;
  start(options);
  RawSocket slow(server_->port());
  const Stopwatch watch;
  bool closed = false;
  for (int i = 0; i < 20 && !closed; ++i) {
    slow.send("G");
    closed = slow.wait_for_close(50);
  }
  EXPECT_TRUE(closed);
  EXPECT_LT(watch.ms(), 900);
  EXPECT_EQ(ask("GET /" + std::string(20'000, 'x')), "");
}

TEST_F(HttpServerTest, StrangersKeepNobodyOut) {
  start();
  std::vector<std::unique_ptr<RawSocket>> strangers;
  for (int i = 0; i < 200; ++i) {
    strangers.push_back(std::make_unique<RawSocket>(server_->port()));
  }
  EXPECT_THAT(ask("GET /here HTTP/1.1\r\n\r\n"), HasSubstr("hello"));
}

}  // namespace
}  // namespace lockstep
