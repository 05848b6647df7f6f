// Tensor streams: bytes, timeouts, and ends.
#include "rpc/byte_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <future>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "rpc/network.h"
#include "tests/rpc/fake_service.h"
#include "tests/rpc/raw_socket.h"

namespace lockstep {
namespace {

using testing::HasSubstr;
using StreamPointer = std::shared_ptr<ByteStream>;

// Two ends of one stream.
class ByteStreamTest : public testing::Test {
 protected:
  void expect_close_wakes_the_writer(bool lasting);

  void SetUp() override {
    std::promise<StreamPointer> accepted;
    auto listener = network_->listen_streams(
        kAnyPort, [&accepted](StreamPointer stream) { accepted.set_value(std::move(stream)); });
    ASSERT_TRUE(listener.ok()) << listener.error().message;
    listener_ = std::move(listener).value();
    auto dialed = network_->connect_stream({"127.0.0.1", listener_->port()}, 1000);
    ASSERT_TRUE(dialed.ok()) << dialed.error().message;
    dialed_ = *dialed;
    accepted_ = accepted.get_future().get();
  }

  const std::unique_ptr<Network> network_ = make_thrift_network();
  std::unique_ptr<StreamListener> listener_;
  StreamPointer dialed_;
  StreamPointer accepted_;
};

TEST_F(ByteStreamTest, HeaderAndBodyArriveInOrder) {
  ASSERT_TRUE(dialed_->write("head", 4, "body!", 5).ok());
  ASSERT_TRUE(dialed_->write("", 0, "only", 4).ok());
  ASSERT_TRUE(dialed_->write("last", 4, nullptr, 0).ok());
  char text[18] = {};
  ASSERT_TRUE(accepted_->read(text, 3, 1000).ok());
  ASSERT_TRUE(accepted_->read(text + 3, 0, 1000).ok());
  ASSERT_TRUE(accepted_->read(text + 3, 14, 1000).ok());
  EXPECT_STREQ(text, "headbody!onlylast");
}

TEST_F(ByteStreamTest, TheAcceptedSideMaySpeakFirst) {
  ASSERT_TRUE(accepted_->write("hi", 2, nullptr, 0).ok());
  char text[3] = {};
  ASSERT_TRUE(dialed_->read(text, 2, 1000).ok());
  EXPECT_STREQ(text, "hi");
}

TEST_F(ByteStreamTest, LargeMessagesBothWaysAtOnce) {
  constexpr size_t kWords = 1 << 20;
  const auto exchange = [](ByteStream& stream, uint32_t first) {
    std::vector<uint32_t> out(kWords);
    std::iota(out.begin(), out.end(), first);
    std::thread writer([&] { EXPECT_TRUE(stream.write(&first, 4, out.data(), 4 * kWords).ok()); });
    uint32_t header = 0;
    std::vector<uint32_t> in(kWords);
    EXPECT_TRUE(stream.read(&header, 4, 1000).ok());
    EXPECT_TRUE(stream.read(in.data(), 4 * kWords, 1000).ok());
    writer.join();
    std::vector<uint32_t> expected(kWords);
    std::iota(expected.begin(), expected.end(), header);
    EXPECT_EQ(in, expected);
    EXPECT_NE(header, first);
  };
  std::thread other([&] { exchange(*accepted_, 1'000'000); });
  exchange(*dialed_, 5);
  other.join();
}

TEST_F(ByteStreamTest, LastingBodiesArriveAmongOthers) {
  // Odd sizes and places, shorter and longer than the pipe that lends their pages.
  constexpr size_t kSizes[] = {1, 4097, 131'073, 262'144, 3'000'001, 524'289, 200'000};
  std::vector<char> out(4 << 20);
  uint32_t word = 1;
  for (char& byte : out) byte = static_cast<char>((word = word * 1664525 + 1013904223) >> 24);
  std::thread writer([&] {
    for (const size_t size : kSizes) {
      EXPECT_TRUE(dialed_->write_lasting("lent", 4, out.data() + 13, size, {}).ok());
      EXPECT_TRUE(dialed_->write("copy", 4, out.data() + 7, size).ok());
    }
  });
  const auto expect = [&](const char* header, size_t begin, size_t size) {
    std::string text(4, ' ');
    std::vector<char> in(size);
    ASSERT_TRUE(accepted_->read(text.data(), 4, 5000).ok());
    EXPECT_EQ(text, header);
    ASSERT_TRUE(accepted_->read(in.data(), size, 5000).ok());
    EXPECT_EQ(std::memcmp(in.data(), out.data() + begin, size), 0) << size;
  };
  for (const size_t size : kSizes) {
    expect("lent", 13, size);
    expect("copy", 7, size);
  }
  writer.join();
}

TEST_F(ByteStreamTest, ALastingBodyOutlivesItsWriterAndItsMapping) {
  constexpr size_t kBytes = 256 << 10;
  void* body = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(body, MAP_FAILED);
  std::memset(body, 'b', kBytes);
  std::thread writer([&, stream = std::exchange(dialed_, nullptr)] {
    EXPECT_TRUE(stream->write_lasting("h", 1, body, kBytes, {}).ok());
    munmap(body, kBytes);
  });
  std::vector<char> in(1 + kBytes);
  EXPECT_TRUE(accepted_->read(in.data(), 1, 1000).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_TRUE(accepted_->read(in.data() + 1, kBytes, 1000).ok());
  writer.join();
  EXPECT_EQ(std::count(in.begin(), in.end(), 'b'), static_cast<std::ptrdiff_t>(kBytes));
}

TEST_F(ByteStreamTest, SilenceTimesOut) {
  char byte = 0;
  const Stopwatch watch;
  const auto status = dialed_->read(&byte, 1, 100);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("silent for 100 ms"));
  EXPECT_GE(watch.ms(), 95);
  EXPECT_LT(watch.ms(), 600);
}

TEST_F(ByteStreamTest, AReadHasOneDeadlineHoweverItsBytesDrip) {
  std::thread writer([&] {
    for (int i = 0; i < 8; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(60));
      EXPECT_TRUE(accepted_->write("x", 1, nullptr, 0).ok());
    }
  });
  char text[8];
  const Stopwatch watch;
  EXPECT_FALSE(dialed_->read(text, sizeof(text), 200).ok());
  EXPECT_GE(watch.ms(), 195);
  EXPECT_LT(watch.ms(), 450);
  writer.join();
}

TEST_F(ByteStreamTest, CloseWakesTheReader) {
  for (const int timeout_ms : {0, 60'000}) {
    SetUp();
    std::thread closer([this] {
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      dialed_->close();
    });
    char byte = 0;
    const auto status = dialed_->read(&byte, 1, timeout_ms);
    closer.join();
    ASSERT_FALSE(status.ok());
    EXPECT_THAT(status.error().message, HasSubstr("closed here"));
    // The other end sees it too.
    const auto there = accepted_->read(&byte, 1, 1000);
    ASSERT_FALSE(there.ok());
    EXPECT_THAT(there.error().message, HasSubstr("closed by the peer"));
  }
}

void ByteStreamTest::expect_close_wakes_the_writer(bool lasting) {
  std::atomic<bool> failed{false};
  std::thread writer([&] {
    const std::vector<char> body(64 << 20);
    const auto status = lasting ? dialed_->write_lasting("h", 1, body.data(), body.size(), {})
                                : dialed_->write("h", 1, body.data(), body.size());
    EXPECT_FALSE(status.ok());
    failed = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(failed) << "nobody reads: the writer waits";
  dialed_->close();
  dialed_->close();
  writer.join();
  EXPECT_FALSE(dialed_->write("h", 1, nullptr, 0).ok());
}

TEST_F(ByteStreamTest, CloseWakesTheWriter) { expect_close_wakes_the_writer(false); }

TEST_F(ByteStreamTest, CloseWakesTheWriterOfALastingBody) { expect_close_wakes_the_writer(true); }

TEST_F(ByteStreamTest, WhatWasWrittenArrivesThoughTheWriterIsGone) {
  constexpr size_t kPart = 64 << 10;
  constexpr int kParts = 128;
  std::thread writer([stream = std::exchange(dialed_, nullptr)] {
    const std::vector<char> body(kPart * kParts, 'b');
    EXPECT_TRUE(stream->write("h", 1, body.data(), body.size()).ok());
  });
  std::vector<char> in(kPart);
  EXPECT_TRUE(accepted_->read(in.data(), 1, 1000).ok());
  for (int i = 0; i < kParts; ++i) {
    // Slower than the writer: much is still under way when it goes.
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(accepted_->read(in.data(), kPart, 1000).ok()) << i;
  }
  writer.join();
  EXPECT_EQ(in.back(), 'b');
  EXPECT_FALSE(accepted_->read(in.data(), 1, 1000).ok());
}

TEST_F(ByteStreamTest, WritingToAPeerThatIsGoneFails) {
  accepted_.reset();
  const std::vector<char> body(1 << 20);
  bool failed = false;
  for (int i = 0; i < 50 && !failed; ++i) {
    failed = !dialed_->write("h", 1, body.data(), body.size()).ok();
  }
  EXPECT_TRUE(failed);
}

TEST_F(ByteStreamTest, NobodyThereIsConnectionRefused) {
  const Address gone{"127.0.0.1", listener_->port()};
  listener_.reset();
  const auto stream = network_->connect_stream(gone, 500);
  ASSERT_FALSE(stream.ok());
  EXPECT_THAT(stream.error().message, HasSubstr("peer " + gone.text() + ": connection refused"));
}

TEST_F(ByteStreamTest, PortInUseIsNamed) {
  const auto second = network_->listen_streams({"127.0.0.1", listener_->port()}, [](auto) {});
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(second.error().message, HasSubstr("in use"));
}

TEST(StreamListener, WaitsForCallbacksAndClosesTheirStreams) {
  std::atomic<int> running{0};
  auto listener = make_stream_listener(kAnyPort, [&](StreamPointer stream) {
    ++running;
    char byte = 0;
    EXPECT_FALSE(stream->read(&byte, 1, 0).ok());
    --running;
  });
  ASSERT_TRUE(listener.ok());
  RawSocket first((*listener)->port());
  RawSocket second((*listener)->port());
  ASSERT_TRUE(eventually([&] { return running == 2; }));
  const Stopwatch watch;
  { const auto ended = std::move(listener).value(); }
  EXPECT_LT(watch.ms(), 500);
  EXPECT_EQ(running, 0);
}

TEST(StreamListener, StreamsOutliveIt) {
  std::mutex mutex;
  std::vector<StreamPointer> streams;
  StreamListenerOptions options;
  options.max_callbacks = 1;
  auto made = make_stream_listener(
      kAnyPort,
      [&](StreamPointer stream) {
        const std::lock_guard lock(mutex);
        streams.push_back(std::move(stream));
      },
      options);
  ASSERT_TRUE(made.ok());
  auto listener = std::move(made).value();
  RawSocket first(listener->port());
  // A second one is let in when the first one's callback has returned.
  ASSERT_TRUE(eventually([&] {
    const RawSocket next(listener->port());
    const std::lock_guard lock(mutex);
    return streams.size() > 1;
  }));
  listener.reset();
  ASSERT_TRUE(first.send("x"));
  char byte = 0;
  EXPECT_TRUE(streams[0]->read(&byte, 1, 1000).ok());
}

TEST(StreamListener, LimitsTheCallbacksThatRun) {
  std::atomic<int> started{0};
  StreamListenerOptions options;
  options.max_callbacks = 2;
  auto listener = make_stream_listener(
      kAnyPort,
      [&](StreamPointer stream) {
        ++started;
        char byte = 0;
        static_cast<void>(stream->read(&byte, 1, 0).ok());
      },
      options);
  ASSERT_TRUE(listener.ok());
  const int port = (*listener)->port();
  {
    RawSocket first(port);
    RawSocket second(port);
    RawSocket third(port);
    EXPECT_TRUE(third.wait_for_close(1000));
    EXPECT_TRUE(eventually([&] { return started == 2; }));
  }
  EXPECT_TRUE(eventually([&] {
    const RawSocket later(port);
    return started > 2;
  }));
}

TEST(StreamListener, ThousandsOfConnectionsOneAfterTheOther) {
  std::atomic<int> accepted{0};
  auto listener = make_stream_listener(kAnyPort, [&](StreamPointer) { ++accepted; });
  ASSERT_TRUE(listener.ok());
  for (int i = 0; i < 1000; ++i) {
    RawSocket socket((*listener)->port());
    EXPECT_TRUE(socket.wait_for_close(1000));
  }
  EXPECT_EQ(accepted, 1000);
}

}  // namespace
}  // namespace lockstep
