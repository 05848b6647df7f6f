#include "host/runtime/peer_links.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "rpc/network.h"

namespace lockstep {
namespace {

template <class Condition>
bool eventually(const Condition& condition) {
  for (int i = 0; i < 4000 && !condition(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return condition();
}

// Takes frames when it is told to, or after a while.
class SlowSink final : public FrameSink {
 public:
  Result<float*> accept(SessionId, const FrameKey&, int64_t) override {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(10), [this] { return released_; });
    return nullptr;  // read and dropped
  }
  void arrived(SessionId, const FrameKey&, float*) override {}
  void gave_up(SessionId, const FrameKey&, float*) override {}
  void connected(SessionId) override { is_connected = true; }
  void release() {
    const std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }
  std::atomic<bool> is_connected{false};

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool released_ = false;
};

// Two nodes: sessions 1 and 2, over TCP or through shared memory.
class Pair {
 public:
  Pair(FrameSink& first, FrameSink& second, bool shared_memory = false)
      : network_(make_thrift_network({.shared_memory = shared_memory})) {
    View view;
    view.era = 1;
    for (PeerLinks* links : {&first_, &second_}) {
      const auto port = links->listen({"127.0.0.1", 0});
      EXPECT_TRUE(port.ok());
      const auto session = static_cast<SessionId>(view.members.size() + 1);
      links->set_session(session);
      view.members.push_back({session, "n", "127.0.0.1:" + std::to_string(*port), {}, {}, 0});
    }
    first_.connect(view, &first);
    second_.connect(view, &second);
  }

  void send_to_first(Frame frame) { second_.send(1, std::move(frame)); }
  const NodeGauges& senders_gauges() const { return *gauges_; }

 private:
  const std::unique_ptr<Network> network_;
  const std::shared_ptr<NodeGauges> gauges_ = std::make_shared<NodeGauges>();
  PeerLinks first_{*network_, {}};
  PeerLinks second_{*network_, {.gauges = gauges_}};
};

TEST(PeerLinks, WhatWaitsForASlowPeerWaitsOnce) {
  const std::vector<float> values(16 << 20);  // more than is under way at a time
  SlowSink sinks[2];
  Pair pair(sinks[0], sinks[1]);
  ASSERT_TRUE(eventually([&] { return sinks[0].is_connected && sinks[1].is_connected; }));

  const auto send = [&](int slice) {
    const FrameKey key{FrameKind::reduced, 0, slice, {0, 0}};
    pair.send_to_first({key, values.data(), std::ssize(values), nullptr});
  };
  const auto& waiting = pair.senders_gauges().frames_waiting;
  send(0);
  ASSERT_TRUE(eventually([&] { return waiting == 0; }));  // it is being written
  for (int i = 0; i < 3; ++i) send(1);                    // the peer asks again
  EXPECT_EQ(waiting, 1);
  send(2);
  EXPECT_EQ(waiting, 2);
  sinks[0].release();
  EXPECT_TRUE(eventually([&] { return waiting == 0; }));
}

// Reads frames into memory of its own, once it is released.
class TakingSink final : public FrameSink {
 public:
  explicit TakingSink(int64_t count) : values(static_cast<size_t>(count)) {}
  Result<float*> accept(SessionId, const FrameKey& key, int64_t) override {
    if (key.kind == FrameKind::present) {
      ++presents;
      return nullptr;
    }
    ++headers;
    while (!released) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return values.data();
  }
  void part_arrived(const FrameKey&) override { ++parts; }
  void arrived(SessionId, const FrameKey&, float*) override {
    if (whole == 0) first = values;
    ++whole;
  }
  void gave_up(SessionId, const FrameKey&, float*) override { ++given_up; }
  void connected(SessionId) override { ++connections; }

  std::vector<float> values;
  std::vector<float> first;  // the first frame that was whole; others may be under way
  std::atomic<int> headers{0};
  std::atomic<int> presents{0};
  std::atomic<int> parts{0};
  std::atomic<int> whole{0};
  std::atomic<int> given_up{0};
  std::atomic<int> connections{0};
  std::atomic<bool> released{false};
};

constexpr int64_t kSlice = 65536;

Frame lasting_frame(int slice, const std::vector<float>& values, const Lasting& lasting) {
  Frame frame;
  frame.key = {FrameKind::piece, 0, slice, {0, 0}};
  frame.values = values.data();
  frame.count = std::ssize(values);
  frame.lasting = lasting;
  return frame;
}

TEST(PeerLinks, ValuesThatChangeUnderWayAreNotTakenUp) {
  std::vector<float> values(kSlice, 1.0f);  // outlives the streams
  TakingSink taking(kSlice);
  SlowSink idle;
  Pair pair(taking, idle);
  ASSERT_TRUE(eventually([&] { return taking.connections == 1 && idle.is_connected; }));
  const auto send = [&](int slice) { pair.send_to_first(lasting_frame(slice, values, {})); };
  // Its header has come, so its hash is made; its body is lent, not copied.
  send(0);
  ASSERT_TRUE(eventually([&] { return taking.headers == 1; }));
  ASSERT_TRUE(eventually([&] { return pair.senders_gauges().network.sent_bytes > 0; }));
  values[0] = 2.0f;
  taking.released = true;
  ASSERT_TRUE(eventually([&] { return taking.given_up == 1; }));
  EXPECT_EQ(taking.whole, 0);
  // The stream comes again, and carries what is asked for then.
  ASSERT_TRUE(eventually([&] { return taking.connections == 2; }));
  ASSERT_TRUE(eventually([&] {
    send(1);
    return taking.whole > 0;
  }));
  EXPECT_EQ(taking.given_up, 1);
  EXPECT_EQ(taking.first, values);
}

TEST(PeerLinks, TellsOfThePartsOfALargeFrame) {
  std::vector<float> values(400'000);  // four parts, the last one shorter
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  TakingSink taking(std::ssize(values));
  taking.released = true;
  SlowSink idle;
  Pair pair(taking, idle);
  ASSERT_TRUE(eventually([&] { return taking.connections == 1 && idle.is_connected; }));
  pair.send_to_first(lasting_frame(0, values, {}));
  ASSERT_TRUE(eventually([&] { return taking.whole == 1; }));
  EXPECT_EQ(taking.parts, 3);
  EXPECT_EQ(taking.first, values);
}

// A frame waits behind a slow one until its step is over: others may have its slice by then, and
// its memory holds what came later.
void expect_what_is_over_is_not_sent(bool shared_memory) {
  const std::vector<float> slow(4 << 20);  // more than is under way at a time
  const std::vector<float> over(kSlice, 1.0f);
  const std::vector<float> last(kSlice, 2.0f);
  std::atomic<int64_t> step{0};  // all outlive the streams
  TakingSink taking(std::ssize(slow));
  SlowSink idle;
  Pair pair(taking, idle, shared_memory);
  ASSERT_TRUE(eventually([&] { return taking.connections == 1 && idle.is_connected; }));
  pair.send_to_first({{FrameKind::reduced, 0, 0, {0, 0}}, slow.data(), std::ssize(slow), nullptr});
  ASSERT_TRUE(eventually([&] { return taking.headers == 1; }));
  pair.send_to_first(lasting_frame(1, over, {&step, 0}));
  step = 1;
  pair.send_to_first(lasting_frame(2, last, {&step, 1}));
  taking.released = true;
  ASSERT_TRUE(eventually([&] { return taking.whole == 2; }));
  EXPECT_EQ(taking.headers, 2);
  EXPECT_EQ(taking.presents, 1);  // its step had begun
  EXPECT_EQ(taking.values[0], 2.0f);
  EXPECT_EQ(taking.connections, 1);
}

TEST(PeerLinks, WhatIsOverIsNotSent) { expect_what_is_over_is_not_sent(false); }

TEST(PeerLinks, WhatIsOverIsNotSentThroughMemory) { expect_what_is_over_is_not_sent(true); }

TEST(PeerLinks, WhatIsOverWhenItIsReadInMemoryIsNotTakenUp) {
  const std::vector<float> values(kSlice, 1.0f);
  std::atomic<int64_t> step{0};
  TakingSink taking(kSlice);
  SlowSink idle;
  Pair pair(taking, idle, true);
  ASSERT_TRUE(eventually([&] { return taking.connections == 1 && idle.is_connected; }));
  pair.send_to_first(lasting_frame(0, values, {&step, 0}));
  ASSERT_TRUE(eventually([&] { return taking.headers == 1; }));
  step = 1;
  taking.released = true;
  ASSERT_TRUE(eventually([&] { return taking.given_up == 1; }));
  EXPECT_EQ(taking.whole, 0);
  ASSERT_TRUE(eventually([&] { return taking.connections == 2; }));
}

}  // namespace
}  // namespace lockstep
