// Who gets through the lobby, and who is sent away.
#include "rpc/lobby.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

namespace lockstep {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

// A record of 16 bytes in which a ClientHello begins.
const std::string kHello = std::string("\x16\x03\x01\x00\x10\x01\x00\x01\xfc", 9) + "123456789012";

sockaddr_storage peer_of(uint32_t address) {
  sockaddr_storage peer{};
  peer.ss_family = AF_INET;
  reinterpret_cast<sockaddr_in&>(peer).sin_addr.s_addr = htonl(address);
  return peer;
}

class LobbyTest : public testing::Test {
 protected:
  ~LobbyTest() override {
    for (const int descriptor : descriptors_) ::close(descriptor);
    lobby_.reset();
    ::close(listener_);
  }

  void open(int max_waiting, int timeout_ms = 60'000, int per_second = 1, int burst = 1000) {
    budget_ = std::make_unique<HandshakeBudget>(per_second, burst);
    auto made = Lobby::make({max_waiting, timeout_ms}, listener_, *budget_);
    ASSERT_TRUE(made.ok()) << made.error().message;
    lobby_ = std::move(made).value();
  }

  // Both ends: the guest's own, and the descriptor by which the lobby knows it.
  struct Ends {
    int own;
    int lobby;
  };
  Ends enter(uint32_t origin, const std::string& says = "") {
    int both[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, both), 0);
    descriptors_.push_back(both[0]);
    say(both[0], says);
    lobby_->enter(both[1], peer_of(origin));
    return {both[0], both[1]};
  }
  static void say(int descriptor, const std::string& bytes) {
    EXPECT_EQ(::write(descriptor, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  std::vector<Lobby::Leaver> leavers() {
    std::vector<Lobby::Leaver> found = lobby_->wait();
    for (const Lobby::Leaver& each : found) descriptors_.push_back(each.descriptor);
    return found;
  }
  // Waits for the one that leaves next.
  Lobby::Leaver leaver() {
    while (true) {
      const auto found = leavers();
      EXPECT_LE(found.size(), 1u);
      if (!found.empty()) return found[0];
    }
  }
  void expect_sent_away(const Ends& guest, const std::string& why) {
    const Lobby::Leaver left = leaver();
    EXPECT_EQ(left.descriptor, guest.lobby);
    ASSERT_NE(left.why, nullptr);
    EXPECT_THAT(left.why, HasSubstr(why));
  }
  void expect_let_through(const Ends& guest) {
    const Lobby::Leaver left = leaver();
    EXPECT_EQ(left.descriptor, guest.lobby);
    EXPECT_EQ(left.why, nullptr);
  }

  const int listener_ = eventfd(0, EFD_CLOEXEC);
  std::unique_ptr<HandshakeBudget> budget_;
  std::unique_ptr<Lobby> lobby_;
  std::vector<int> descriptors_;
};

TEST_F(LobbyTest, AHelloIsLetThroughWholeHoweverItComes) {
  open(4);
  expect_let_through(enter(1, kHello));
  const Ends slow = enter(1);
  size_t said = 0;
  for (const size_t end : {3u, 9u, 20u}) {
    say(slow.own, kHello.substr(said, end - said));
    said = end;
    lobby_->wake();  // from here on wait() waits for nobody
    EXPECT_TRUE(leavers().empty()) << end;
  }
  say(slow.own, kHello.substr(said));
  expect_let_through(slow);
  // Not a byte was taken.
  char bytes[64];
  EXPECT_EQ(::read(slow.lobby, bytes, sizeof(bytes)), static_cast<ssize_t>(kHello.size()));
}

TEST_F(LobbyTest, WhatIsNoHelloIsSentAwayAtOnce) {
  open(4);
  expect_sent_away(enter(1, "GET / HTTP/1.1\r\n\r\n"), "does not speak TLS");
  const std::string others[] = {
      std::string("\x17\x03\x01\x00\x10\x01\x00\x00\x0c", 9),  // a record of data
      std::string("\x16\x02\x01\x00\x10\x01\x00\x00\x0c", 9),  // SSL 2
      std::string("\x16\x03\x01\x00\x10\x02\x00\x00\x0c", 9),  // a ServerHello
      std::string("\x16\x03\x01\x40\x01\x01\x00\x00\x0c", 9),  // a record that is too long
      std::string("\x16\x03\x01\x00\x04\x01\x00\x00\x0c", 9),  // or too short
      std::string("\x16\x03\x01\x00\x10\x01\x02\x00\x01", 9),  // a message that is too long
  };
  for (const std::string& other : others) {
    const Ends guest = enter(1);
    say(guest.own, other);
    expect_sent_away(guest, "does not speak TLS");
  }
}

TEST_F(LobbyTest, WhoGoesOrIsSlowIsSentAway) {
  open(4, 50);
  const Ends gone = enter(1);
  shutdown(gone.own, SHUT_RDWR);
  expect_sent_away(gone, "closed the connection");
  const auto begin = std::chrono::steady_clock::now();
  const Ends slow = enter(1, "\x16");
  expect_sent_away(slow, "in time");
  EXPECT_GE(std::chrono::steady_clock::now() - begin, milliseconds(50));
}

TEST_F(LobbyTest, AHelloWhoseSenderHasGoneIsNoHandshake) {
  open(4);
  int both[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, both), 0);
  say(both[0], kHello);
  ::close(both[0]);
  lobby_->enter(both[1], peer_of(1));
  expect_sent_away({-1, both[1]}, "closed the connection");
}

TEST_F(LobbyTest, OneTooManyEndsTheOldestOfTheOriginThatHasMost) {
  open(4);
  enter(1);
  const Ends oldest = enter(2);
  const Ends second = enter(2);
  enter(3);
  const Ends more = enter(3);
  expect_sent_away(oldest, "too many");
  enter(3);  // there are two of the third origin now, and one of each other
  const Lobby::Leaver left = leaver();
  EXPECT_EQ(origin_of(left.peer), origin_of(peer_of(3)));
  EXPECT_NE(left.descriptor, more.lobby);
  say(second.own, kHello);
  expect_let_through(second);
}

TEST_F(LobbyTest, HellosBeyondTheBudgetOfTheirOriginWait) {
  open(16, 60'000, 20, 2);
  expect_let_through(enter(1, kHello));
  expect_let_through(enter(1, kHello));
  const Ends third = enter(1, kHello);
  expect_let_through(enter(2, kHello));  // another origin
  const Ends impatient = enter(1, kHello);
  shutdown(impatient.own, SHUT_RDWR);
  expect_sent_away(impatient, "closed the connection");
  expect_let_through(third);
}

TEST(HandshakeBudgetTest, OnlyThoseThatFailCost) {
  HandshakeBudget budget(10, 3);
  const Deadline start = std::chrono::steady_clock::now();
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(budget.take(1, start));
    budget.give_back(1);
  }
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(budget.take(1, start));
  EXPECT_FALSE(budget.take(1, start));
  EXPECT_TRUE(budget.take(2, start));
  EXPECT_FALSE(budget.take(1, start + milliseconds(90)));
  EXPECT_TRUE(budget.take(1, start + milliseconds(110)));
  EXPECT_FALSE(budget.take(1, start + milliseconds(110)));
  // Never more than the burst, however long nobody came.
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(budget.take(1, start + seconds(100)));
  EXPECT_FALSE(budget.take(1, start + seconds(100)));
}

TEST(OriginTest, AnAddressOrTheNetworkOfAnIpv6Address) {
  const auto of = [](int family, const char* text) {
    sockaddr_storage storage{};
    storage.ss_family = static_cast<sa_family_t>(family);
    void* address = &reinterpret_cast<sockaddr_in6&>(storage).sin6_addr;
    if (family == AF_INET) address = &reinterpret_cast<sockaddr_in&>(storage).sin_addr;
    EXPECT_EQ(inet_pton(family, text, address), 1);
    return origin_of(storage);
  };
  EXPECT_EQ(of(AF_INET, "10.0.0.7"), of(AF_INET6, "::ffff:10.0.0.7"));
  EXPECT_NE(of(AF_INET, "10.0.0.7"), of(AF_INET, "10.0.0.8"));
  EXPECT_EQ(of(AF_INET6, "2001:db8::1"), of(AF_INET6, "2001:db8::ffff:1"));
  EXPECT_NE(of(AF_INET6, "2001:db8::1"), of(AF_INET6, "2001:db8:0:1::1"));
}

}  // namespace
}  // namespace lockstep
