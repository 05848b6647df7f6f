#include "rpc/shared_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <functional>
#include <mutex>
#include <numeric>
#include <thread>

#include "rpc/network.h"
#include "tests/rpc/raw_socket.h"

namespace lockstep {
namespace {

// Two connected ends, made by the network as nodes make them.
class SharedStreamTest : public testing::Test {
 protected:
  void connect(bool shared_memory = true) {
    network_ = make_thrift_network({.shared_memory = shared_memory});
    auto listener =
        network_->listen_streams({"127.0.0.1", 0}, [this](std::shared_ptr<ByteStream> stream) {
          std::unique_lock lock(mutex_);
          accepted_ = std::move(stream);
          changed_.notify_all();
          changed_.wait(lock, [this] { return over_; });
        });
    ASSERT_TRUE(listener.ok());
    listener_ = std::move(listener).value();
    auto dialled = network_->connect_stream({"127.0.0.1", listener_->port()}, 2000);
    ASSERT_TRUE(dialled.ok()) << dialled.error().message;
    dialled_ = std::move(dialled).value();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return accepted_ != nullptr; });
  }
  void TearDown() override {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
      changed_.notify_all();
    }
    listener_.reset();
  }
  bool is_shared(const std::shared_ptr<ByteStream>& stream) const {
    return dynamic_cast<SocketByteStream*>(stream.get()) == nullptr;
  }

  std::unique_ptr<Network> network_;
  std::unique_ptr<StreamListener> listener_;
  std::shared_ptr<ByteStream> dialled_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<ByteStream> accepted_;
  bool over_ = false;
};

// More than the ring holds, both ways at once, in uneven pieces.
void exchange_much(ByteStream& a, ByteStream& b) {
  std::vector<uint32_t> sent(3'000'003);
  std::iota(sent.begin(), sent.end(), 7u);
  const size_t bytes = sent.size() * 4;
  const auto write = [&](ByteStream& stream) {
    const uint64_t header = bytes;
    EXPECT_TRUE(stream.write(&header, sizeof(header), sent.data(), bytes).ok());
  };
  const auto read = [&](ByteStream& stream) {
    uint64_t header = 0;
    EXPECT_TRUE(stream.read(&header, sizeof(header), 5000).ok());
    EXPECT_EQ(header, bytes);
    std::vector<uint32_t> received(sent.size());
    auto* next = reinterpret_cast<char*>(received.data());
    for (size_t done = 0, part = 1; done < bytes; part = part * 3 + 1) {
      const size_t size = std::min(part, bytes - done);
      ASSERT_TRUE(stream.read(next + done, size, 5000).ok());
      done += size;
    }
    EXPECT_EQ(received, sent);
  };
  std::thread a_writes([&] { write(a); });
  std::thread b_writes([&] { write(b); });
  std::thread a_reads([&] { read(a); });
  read(b);
  a_writes.join();
  b_writes.join();
  a_reads.join();
}

TEST_F(SharedStreamTest, CarriesMuchBothWays) {
  connect();
  EXPECT_TRUE(is_shared(dialled_) && is_shared(accepted_));
  exchange_much(*dialled_, *accepted_);
}

TEST_F(SharedStreamTest, IsASocketWhereItIsNotWanted) {
  connect(false);
  EXPECT_FALSE(is_shared(dialled_) || is_shared(accepted_));
  exchange_much(*dialled_, *accepted_);
}

TEST_F(SharedStreamTest, WhatWasWrittenIsReadAfterTheWriterHasGone) {
  connect();
  ASSERT_TRUE(dialled_->write("abcd", 4, nullptr, 0).ok());
  dialled_->close();
  dialled_.reset();
  char text[4] = {};
  EXPECT_TRUE(accepted_->read(text, 4, 1000).ok());
  EXPECT_EQ(std::memcmp(text, "abcd", 4), 0);
  EXPECT_FALSE(accepted_->read(text, 1, 1000).ok());
  EXPECT_FALSE(accepted_->write(std::vector<char>(4 << 20).data(), 4 << 20, nullptr, 0).ok());
}

TEST_F(SharedStreamTest, SilenceHasALimit) {
  connect();
  char byte = 0;
  const auto status = accepted_->read(&byte, 1, 100);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, testing::HasSubstr("silent for 100 ms"));
}

TEST_F(SharedStreamTest, CloseWakesReaderAndWriter) {
  connect();
  std::thread reader([this] {
    char byte = 0;
    EXPECT_FALSE(dialled_->read(&byte, 1, 0).ok());
  });
  std::thread writer([this] {
    const std::vector<char> much(4 << 20);
    EXPECT_FALSE(dialled_->write(much.data(), much.size(), nullptr, 0).ok());
  });
  usleep(20'000);
  dialled_->close();
  reader.join();
  writer.join();
}

// The dialling end is in another process, which is killed when it is done.
void expect_beside_killed(const std::function<void(ByteStream&)>& accepted,
                          const std::function<void(ByteStream&)>& dialled) {
  const auto network = make_thrift_network();
  auto listener = network->listen_streams(
      {"127.0.0.1", 0}, [&](std::shared_ptr<ByteStream> stream) { accepted(*stream); });
  ASSERT_TRUE(listener.ok());
  const int port = (*listener)->port();
  const pid_t child = fork();
  if (child == 0) {
    auto stream = make_thrift_network()->connect_stream({"127.0.0.1", port}, 2000);
    if (stream.ok()) dialled(**stream);
    ::kill(getpid(), SIGKILL);
  }
  waitpid(child, nullptr, 0);
  usleep(300'000);  // the callback notices by itself
  listener->reset();
}

TEST(SharedStreamOfProcesses, AKilledPeerIsNoticed) {
  expect_beside_killed(
      [](ByteStream& stream) {
        char byte = 0;
        EXPECT_TRUE(stream.read(&byte, 1, 5000).ok());
        EXPECT_FALSE(stream.read(&byte, 1, 5000).ok());
      },
      [](ByteStream& stream) { static_cast<void>(stream.write("x", 1, nullptr, 0)); });
}

TEST(SharedStreamOfProcesses, MemoryIsReadUntilItsProcessIsKilled) {
  constexpr size_t kBytes = 4 << 20;
  const std::vector<char> body(kBytes, 'b');
  const std::atomic<int64_t> count{0};
  expect_beside_killed(
      [](ByteStream& stream) {
        std::vector<char> read(kBytes);
        char byte = 0;
        EXPECT_TRUE(stream.read(&byte, 1, 5000).ok());
        EXPECT_TRUE(stream.write("go", 2, nullptr, 0).ok());
        EXPECT_TRUE(stream.read(&byte, 1, 5000).ok());
        EXPECT_TRUE(stream.read(read.data(), kBytes, 5000).ok());
        EXPECT_EQ(std::count(read.begin(), read.end(), 'b'), static_cast<std::ptrdiff_t>(kBytes));
        EXPECT_TRUE(stream.write("go", 2, nullptr, 0).ok());
        EXPECT_TRUE(stream.read(&byte, 1, 5000).ok());
        usleep(100'000);
        EXPECT_FALSE(stream.read(read.data(), kBytes, 5000).ok());
      },
      [&](ByteStream& stream) {
        char go[2];
        static_cast<void>(stream.write("x", 1, nullptr, 0));
        for (int i = 0; i < 2; ++i) {
          static_cast<void>(stream.read(go, 2, 5000));
          static_cast<void>(stream.write_lasting("h", 1, body.data(), kBytes, {&count, 0}));
        }
      });
}

class LentMemoryTest : public SharedStreamTest {
 protected:
  // A reader lends nothing and is lent nothing before it has read something.
  void SetUp() override {
    connect();
    char byte = 0;
    ASSERT_TRUE(dialled_->write("x", 1, nullptr, 0).ok());
    ASSERT_TRUE(accepted_->read(&byte, 1, 1000).ok());
    std::iota(body_.begin(), body_.end(), 3u);
  }
  // More than the ring holds, and nobody reads: it would wait if it copied.
  void lend() {
    ASSERT_TRUE(dialled_->write_lasting("head", 4, body_.data(), kBytes, {&count_, 5}).ok());
  }
  void expect_head() {
    char head[4];
    ASSERT_TRUE(accepted_->read(head, 4, 1000).ok());
    EXPECT_EQ(std::memcmp(head, "head", 4), 0);
  }

  static constexpr size_t kBytes = 4 << 20;
  std::vector<uint32_t> body_ = std::vector<uint32_t>(kBytes / 4);
  std::vector<uint32_t> read_ = std::vector<uint32_t>(kBytes / 4);
  std::atomic<int64_t> count_{5};
};

TEST_F(LentMemoryTest, IsReadFromWhereItLies) {
  lend();
  expect_head();
  ASSERT_TRUE(accepted_->read(read_.data(), 4096, 1000).ok());
  ASSERT_TRUE(accepted_->read(read_.data() + 1024, kBytes - 4096, 1000).ok());
  EXPECT_EQ(read_, body_);
}

TEST_F(LentMemoryTest, CountsAsGoneWhereItDidNotLastUntilItWasRead) {
  lend();
  expect_head();
  count_ = 6;
  const auto status = accepted_->read(read_.data(), kBytes, 1000);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, testing::HasSubstr("gone before they were read"));
}

TEST_F(LentMemoryTest, IsSkippedUnread) {
  lend();
  ASSERT_TRUE(dialled_->write("tail", 4, body_.data(), 200'000).ok());
  count_ = 6;
  expect_head();
  ASSERT_TRUE(accepted_->skip(kBytes).ok());
  ASSERT_TRUE(accepted_->skip(4 + 100'000).ok());  // of what was copied as well
  ASSERT_TRUE(accepted_->read(read_.data(), 100'000, 1000).ok());
  EXPECT_EQ(read_[0], body_[25'000]);
}

TEST_F(LentMemoryTest, CountsAsGoneWhenItsWriterHasClosed) {
  lend();
  expect_head();
  dialled_->close();
  const auto status = accepted_->read(read_.data(), kBytes, 1000);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, testing::HasSubstr("closed by the peer"));
}

TEST_F(LentMemoryTest, IsCopiedWhereNoOtherProcessMayReadIt) {
  constexpr size_t kSize = 512 << 10;
  const int secret = static_cast<int>(syscall(SYS_memfd_secret, 0));
  if (secret < 0) GTEST_SKIP() << "memfd_secret: " << std::strerror(errno);
  ASSERT_EQ(ftruncate(secret, kSize), 0);
  void* body = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, secret, 0);
  ::close(secret);
  if (body == MAP_FAILED) GTEST_SKIP() << "mmap of secret memory: " << std::strerror(errno);
  std::memset(body, 's', kSize);
  ASSERT_TRUE(dialled_->write_lasting("head", 4, body, kSize, {&count_, 5}).ok());
  munmap(body, kSize);
  expect_head();
  std::vector<char> read(kSize);
  ASSERT_TRUE(accepted_->read(read.data(), kSize, 1000).ok());
  EXPECT_EQ(std::count(read.begin(), read.end(), 's'), static_cast<std::ptrdiff_t>(kSize));
}

TEST_F(LentMemoryTest, WhatIsOverIsNeverWholeWhereItIsCopied) {
  count_ = 6;
  const auto status = dialled_->write_lasting("h", 1, body_.data(), 4096, {&count_, 5});
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, testing::HasSubstr("gone before they were sent"));
  dialled_->close();
  EXPECT_FALSE(accepted_->read(read_.data(), 4097, 1000).ok());
}

TEST_F(SharedStreamTest, GarbageInPlaceOfAnOfferIsDropped) {
  network_ = make_thrift_network();
  bool called = false;
  auto listener = network_->listen_streams({"127.0.0.1", 0},
                                           [&](std::shared_ptr<ByteStream>) { called = true; });
  ASSERT_TRUE(listener.ok());
  {
    RawSocket garbage((*listener)->port());
    garbage.send(std::string(64, 'x'));
    EXPECT_TRUE(garbage.wait_for_close(3000));
  }
  listener->reset();
  EXPECT_FALSE(called);
}

}  // namespace
}  // namespace lockstep
