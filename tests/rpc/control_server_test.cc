// What a control server withstands, and what it notices.
#include "rpc/control_server.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <fstream>
#include <memory>
#include <vector>

#include "rpc/control_client.h"
#include "tests/rpc/fake_service.h"
#include "tests/rpc/raw_socket.h"

namespace lockstep {
namespace {

int64_t resident_kib() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    if (word == "VmRSS:") {
      int64_t kib = 0;
      status >> kib;
      return kib;
    }
  }
  return 0;
}

class ControlServerTest : public testing::Test {
 protected:
  void start(ControlServerOptions options = {}) {
    auto made = make_control_server(kAnyPort, service_, options);
    ASSERT_TRUE(made.ok()) << made.error().message;
    server_ = std::move(made).value();
  }
  std::unique_ptr<ControlClient> connect() {
    auto made = make_control_client({"127.0.0.1", server_->port()});
    EXPECT_TRUE(made.ok()) << made.error().message;
    return made.ok() ? std::move(made).value() : nullptr;
  }
  // That the server still serves others.
  void expect_alive() {
    const auto client = connect();
    ASSERT_NE(client, nullptr);
    EXPECT_TRUE(client->status().ok());
  }

  FakeService service_;
  std::unique_ptr<ControlServer> server_;
};

ControlServerOptions short_timeouts() {
  ControlServerOptions options;
  options.idle_timeout_ms = 200;
  options.message_timeout_ms = 200;
  options.first_call_timeout_ms = 200;
  return options;
}

TEST_F(ControlServerTest, GarbageEndsItsConnectionAlone) {
  start(short_timeouts());
  testing::internal::CaptureStderr();
  const std::vector<std::string> garbage = {
      "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
      std::string(1000, '\0'),
      std::string(100'000, '\xff'),
      call_header("hello") + std::string(100, '\x7f'),
      big_endian(0x80010001u) + big_endian(0x7fffffff),
      big_endian(0x80010002u) + big_endian(5) + "hello" + big_endian(1) + '\0',
  };
  for (const std::string& bytes : garbage) {
    RawSocket socket(server_->port());
    ASSERT_TRUE(socket.connected());
    socket.send(bytes);
    EXPECT_TRUE(socket.wait_for_close(1500)) << "garbage of " << bytes.size() << " bytes";
  }
  expect_alive();
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(service_.calls(), 1);
}

TEST_F(ControlServerTest, HugeHeadersReserveNothing) {
  start(short_timeouts());
  expect_alive();
  const std::string join = call_header("join") + field(kStruct, 1);
  const std::string step = call_header("report_step") + field(kStruct, 1);
  const std::string part = call_header("upload") + field(kStruct, 1);
  const int64_t before_kib = resident_kib();
  for (const uint32_t count : {60'000'000u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
    for (const std::string& message :
         {join + field(kList, 8) + kStruct + big_endian(count),  // canary
          step + field(kList, 7) + kStruct + big_endian(count),  // partitions
          step + field(kList, 99) + kI64 + big_endian(count),    // unknown, skipped
          join + field(kString, 2) + big_endian(count),
          part + field(kString, 5) + big_endian(count)}) {
      RawSocket socket(server_->port());
      socket.send(message);
      EXPECT_TRUE(socket.wait_for_close(1500)) << count;
    }
  }
  EXPECT_LE(resident_kib() - before_kib, 16 * 1024);
  expect_alive();
}

TEST_F(ControlServerTest, HalfAMessageAndSilenceIsDropped) {
  start(short_timeouts());
  RawSocket silent(server_->port());
  RawSocket half(server_->port());
  const Stopwatch watch;
  half.send(call_header("upload") + field(kStruct, 1) + field(kI64, 1) + big_endian(0));
  expect_alive();
  EXPECT_TRUE(half.wait_for_close(1500));
  EXPECT_TRUE(silent.wait_for_close(1500));
  EXPECT_GE(watch.ms(), 150);
  EXPECT_LT(watch.ms(), 1000);
  expect_alive();
}

TEST_F(ControlServerTest, AMessageThatDripsIsDropped) {
  start(short_timeouts());
  RawSocket socket(server_->port());
  const std::string message = call_header("leave");
  const Stopwatch watch;
  for (size_t i = 0; i < message.size() && !socket.wait_for_close(50); ++i) {
    socket.send(message.substr(i, 1));
  }
  EXPECT_LT(watch.ms(), 600);
  expect_alive();
}

TEST_F(ControlServerTest, AMessageWithoutEndIsDropped) {
  start();
  RawSocket socket(server_->port());
  const std::string part = field(kString, 99) + big_endian(8 << 20) + std::string(8 << 20, 'x');
  bool sent = socket.send(call_header("join") + field(kStruct, 1));
  int parts = 0;
  for (; sent && parts < 20; ++parts) sent = socket.send(part);
  EXPECT_GE(parts, 7);
  EXPECT_LT(parts, 20) << "64 MiB are the limit, and the sockets' buffers hold some";
  expect_alive();
}

TEST_F(ControlServerTest, UnknownCallsAreAnswered) {
  start(short_timeouts());
  RawSocket socket(server_->port());
  socket.send(call_header("reboot") + '\0');
  std::string answer;
  EXPECT_TRUE(socket.wait_for_close(1500, &answer));
  EXPECT_NE(answer.find("reboot"), std::string::npos);
}

// Thrift's own transports end a connection after 100 MB of small strings.
TEST_F(ControlServerTest, OneConnectionCarriesMoreThan150Megabytes) {
  service_.welcome.job = std::string(40'000, 'j');
  start();
  const auto client = connect();
  ASSERT_TRUE(client->poll({7, 0, 0}).ok());  // or a second connection would go unnoticed
  const StatePart small{7, 0, 0, 40'000, std::string(40'000, 's')};
  for (int i = 0; i < 2'700; ++i) ASSERT_TRUE(client->upload(small).ok()) << i;
  const StatePart large{7, 0, 0, 8 << 20, std::string(8 << 20, 'l')};
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(client->upload(large).ok()) << i;
  EXPECT_EQ(service_.uploaded_, 2'700 * 40'000 + 8 * (8LL << 20));
  EXPECT_EQ(service_.part_.bytes, large.bytes);
  for (int i = 0; i < 2'700; ++i) ASSERT_TRUE(client->hello({}).ok()) << i;
  EXPECT_EQ(service_.calls(), 1 + 2'700 + 8 + 2'700);
  EXPECT_TRUE(service_.lost().empty()) << "a connection ended";
}

TEST_F(ControlServerTest, TheConnectionThatPolledIsMissed) {
  start();
  auto node = connect();
  auto reporter = connect();
  ASSERT_TRUE(node->poll({7, 0, 0}).ok());
  ASSERT_TRUE(reporter->ask_to_leave(8).ok());
  reporter.reset();
  node.reset();
  EXPECT_TRUE(eventually([&] { return !service_.lost().empty(); }));
  server_.reset();
  EXPECT_EQ(service_.lost(), std::vector<SessionId>{7});
}

// The server may learn late that the first one was reset: the node is there all the same.
TEST_F(ControlServerTest, ASessionThatPollsOnALaterConnectionIsNotMissed) {
  start();
  auto first = connect();
  ASSERT_TRUE(first->poll({7, 0, 0}).ok());
  auto second = connect();
  ASSERT_TRUE(second->poll({7, 0, 0}).ok());
  ASSERT_TRUE(first->poll({7, 0, 0}).ok());  // sent before it was reset
  first.reset();
  auto other = connect();
  ASSERT_TRUE(other->poll({8, 0, 0}).ok());
  other.reset();
  EXPECT_TRUE(eventually([&] { return !service_.lost().empty(); }));
  EXPECT_EQ(service_.lost(), std::vector<SessionId>{8});
  service_.forget_lost();
  second.reset();
  EXPECT_TRUE(eventually([&] { return !service_.lost().empty(); }));
  EXPECT_EQ(service_.lost(), std::vector<SessionId>{7});
}

TEST_F(ControlServerTest, ASessionThatWasRefusedIsNotMissed) {
  service_.answer = refused_error("unknown session");
  start();
  auto node = connect();
  EXPECT_FALSE(node->poll({7, 0, 0}).ok());
  node.reset();
  server_.reset();
  EXPECT_TRUE(service_.lost().empty());
}

TEST_F(ControlServerTest, AKilledProcessIsMissedAtOnce) {
  start();
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const int port = server_->port();
  const pid_t child = fork();
  if (child == 0) {
    // Nothing but system calls: other threads of the parent may have held locks.
    RawSocket socket(port);
    socket.send(call_header("poll") + field(kStruct, 1) + field(kI64, 1) + big_endian(0) +
                big_endian(7) + '\0' + '\0');
    char answer[64];
    static_cast<void>(!read(0, answer, 0));
    static_cast<void>(!write(ready[1], "r", 1));
    while (true) pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  ASSERT_TRUE(eventually([&] { return service_.calls() == 1; }));
  EXPECT_TRUE(service_.lost().empty());
  const Stopwatch watch;
  kill(child, SIGKILL);
  EXPECT_TRUE(eventually([&] { return service_.lost() == std::vector<SessionId>{7}; }));
  EXPECT_LT(watch.ms(), 500);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(ControlServerTest, StopsAtOnceWithIdleAndPollingClients) {
  service_.poll_takes_ms = kLongPollMs;
  start();
  std::vector<std::unique_ptr<ControlClient>> idle;
  for (int i = 0; i < 20; ++i) {
    idle.push_back(connect());
    ASSERT_TRUE(idle.back()->status().ok());
  }
  RawSocket mute(server_->port());
  RawSocket half(server_->port());
  half.send(call_header("status"));
  std::vector<std::thread> polling;
  for (int i = 0; i < 4; ++i) {
    polling.emplace_back([client = connect()] {
      while (client->poll({7, 0, 0}).ok()) continue;
    });
  }
  ASSERT_TRUE(eventually([&] { return service_.calls() >= 24; }));
  const Stopwatch watch;
  server_.reset();
  EXPECT_LT(watch.ms(), 1000);
  for (std::thread& thread : polling) thread.join();
  EXPECT_TRUE(service_.lost().empty()) << "the server's own end is nobody's loss";
}

TEST_F(ControlServerTest, ClientsBeyondTheLimitAreTurnedAway) {
  ControlServerOptions options;
  options.max_clients = 2;
  start(options);
  auto first = connect();
  const auto second = connect();
  ASSERT_TRUE(first->status().ok());
  ASSERT_TRUE(second->status().ok());
  const auto third = connect();
  EXPECT_FALSE(third->status().ok());
  EXPECT_TRUE(second->status().ok());
  first.reset();
  EXPECT_TRUE(eventually([&] { return third->status().ok(); }));
}

TEST_F(ControlServerTest, ManyClientsAtOnce) {
  start();
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&, client = connect(), i] {
      for (int step = 0; step < 50; ++step) {
        if (!client->report_step({i, 0, step, {}, 0, {}}).ok()) ++failures;
        if (!client->poll({i, 0, 0}).ok()) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(service_.calls(), 16 * 100);
  EXPECT_TRUE(eventually([&] { return service_.lost().size() == 16; }));
}

}  // namespace
}  // namespace lockstep
