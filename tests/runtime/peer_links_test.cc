#include "host/runtime/peer_links.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "rpc/network.h"

namespace lockstep {
namespace {

template <class Condition>
bool eventually(const Condition& condition) {
  for (int i = 0; i < 1000 && !condition(); ++i)
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

TEST(PeerLinks, WhatWaitsForASlowPeerWaitsOnce) {
  const std::vector<float> values(16 << 20);  // more than is under way at a time
  const auto network = make_thrift_network();
  SlowSink sinks[2];
  PeerLinksOptions options;
  PeerLinks first(*network, options);
  options.gauges = std::make_shared<NodeGauges>();
  PeerLinks second(*network, options);
  View view;
  view.era = 1;
  for (PeerLinks* links : {&first, &second}) {
    const auto port = links->listen({"127.0.0.1", 0});
    ASSERT_TRUE(port.ok());
    const auto session = static_cast<SessionId>(view.members.size() + 1);
    links->set_session(session);
    view.members.push_back({session, "n", "127.0.0.1:" + std::to_string(*port), {}, {}, 0});
  }
  first.connect(view, &sinks[0]);
  second.connect(view, &sinks[1]);
  ASSERT_TRUE(eventually([&] { return sinks[0].is_connected && sinks[1].is_connected; }));

  const auto send = [&](int slice) {
    const FrameKey key{FrameKind::reduced, 0, slice, {0, 0}};
    second.send(1, {key, values.data(), std::ssize(values), nullptr});
  };
  const auto& waiting = options.gauges->frames_waiting;
  send(0);
  ASSERT_TRUE(eventually([&] { return waiting == 0; }));  // it is being written
  for (int i = 0; i < 3; ++i) send(1);                    // the peer asks again
  EXPECT_EQ(waiting, 1);
  send(2);
  EXPECT_EQ(waiting, 2);
  sinks[0].release();
  EXPECT_TRUE(eventually([&] { return waiting == 0; }));
}

}  // namespace
}  // namespace lockstep
