// Who may talk to whom, and what is said to those who may not.
#include "rpc/tls.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <future>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "rpc/control_client.h"
#include "rpc/control_server.h"
#include "rpc/network.h"
#include "tests/rpc/fake_service.h"
#include "tests/rpc/raw_socket.h"
#include "tests/rpc/tls_fixture.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// A control server with the certificate in a folder, and clients with others.
class TlsControlTest : public testing::Test {
 protected:
  void SetUp() override { make_thrift_network(); }  // ignores SIGPIPE

  void start(const std::string& folder, ControlServerOptions options = {}) {
    options.log = [this](const std::string& line) {
      const std::lock_guard lock(mutex_);
      log_ += line + "\n";
    };
    options.tls = TestCertificates::load(folder, options.log);
    auto made = make_control_server(kAnyPort, service_, options);
    ASSERT_TRUE(made.ok()) << made.error().message;
    server_ = std::move(made).value();
  }

  // A client that shows the folder's certificate says hello.
  Result<Welcome> hello(const std::string& folder) {
    LOCKSTEP_ASSIGN(const auto client, connect(folder));
    return client->hello({1, "version", "name"});
  }
  Result<std::unique_ptr<ControlClient>> connect(const std::string& folder) {
    ControlClientOptions options;
    options.tls = TestCertificates::load(folder);
    return make_control_client({"127.0.0.1", server_->port()}, options);
  }
  void expect_refused(const std::string& folder, const std::string& said,
                      const std::string& logged) {
    const auto answer = hello(folder);
    ASSERT_FALSE(answer.ok());
    EXPECT_EQ(answer.error().kind, ErrorKind::refused) << answer.error().message;
    EXPECT_THAT(answer.error().message, HasSubstr(said));
    EXPECT_TRUE(eventually([&] { return log().find(logged) != std::string::npos; })) << log();
    EXPECT_EQ(service_.calls(), 0);
  }
  std::string log() {
    const std::lock_guard lock(mutex_);
    return log_;
  }

  TestCertificates certificates_;
  FakeService service_;
  std::mutex mutex_;
  std::string log_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(TlsControlTest, NodesCallAndOperatorsAsk) {
  const std::string job = certificates_.make("a");
  start(job + "/coordinator");
  const auto welcome = hello(job + "/node");
  ASSERT_TRUE(welcome.ok()) << welcome.error().message;
  EXPECT_EQ(welcome->session, 7);
  const auto watcher = connect(job + "/operator");
  ASSERT_TRUE(watcher.ok()) << watcher.error().message;
  EXPECT_TRUE((*watcher)->status().ok());
  const auto refused = (*watcher)->leave(7);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().kind, ErrorKind::refused);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("for nodes"), HasSubstr("operator")));
  EXPECT_EQ(log(), "");
}

TEST_F(TlsControlTest, LargeMessagesArrive) {
  const std::string job = certificates_.make("a");
  service_.state.assign(3 << 20, 's');
  start(job + "/coordinator");
  const auto client = connect(job + "/node");
  ASSERT_TRUE(client.ok()) << client.error().message;
  StatePart part{7, 1, 0, 4 << 20, std::string(4 << 20, 'p')};
  ASSERT_TRUE((*client)->upload(part).ok());
  EXPECT_EQ(service_.part_.bytes, part.bytes);
  const auto fetched = (*client)->fetch(7, "object", 0);
  ASSERT_TRUE(fetched.ok()) << fetched.error().message;
  EXPECT_EQ(*fetched, service_.state);
}

TEST_F(TlsControlTest, ANodeIsNoCoordinator) {
  const std::string job = certificates_.make("a");
  start(job + "/node");
  const auto answer = hello(job + "/node");
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().kind, ErrorKind::refused);
  EXPECT_THAT(answer.error().message,
              AllOf(HasSubstr("node of job 'a'"), HasSubstr("only a coordinator")));
}

TEST_F(TlsControlTest, ACoordinatorIsNoNode) {
  const std::string job = certificates_.make("a");
  start(job + "/coordinator");
  expect_refused(job + "/coordinator", "another job or role",
                 "only a node or operator may be here");
}

TEST_F(TlsControlTest, ANodeOfAnotherJobIsRefusedEvenUnderTheSameAuthority) {
  const std::string job = certificates_.make("a");
  const std::string other = certificates_.make("b", 0, 30, job);
  start(job + "/coordinator");
  // The other job's node trusts this coordinator's authority, but wants a coordinator of its job.
  const auto answer = hello(other + "/node");
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().kind, ErrorKind::refused);
  EXPECT_THAT(answer.error().message, HasSubstr("coordinator of job 'a', not of job 'b'"));
  EXPECT_EQ(service_.calls(), 0);
}

// Takes any server: what an attacker's client does.
class CarelessClient {
 public:
  CarelessClient(const std::string& folder, int port) : socket_(port) {
    context_.reset(SSL_CTX_new(TLS_client_method()));
    if (!folder.empty()) {
      SSL_CTX_use_certificate_chain_file(context_.get(), (folder + "/tls.crt").c_str());
      SSL_CTX_use_PrivateKey_file(context_.get(), (folder + "/tls.key").c_str(), SSL_FILETYPE_PEM);
    }
    ssl_.reset(SSL_new(context_.get()));
    SSL_set_fd(ssl_.get(), socket_.descriptor());
  }
  // Whether the server goes on talking once it has seen our certificate.
  bool is_taken(const std::string& bytes) {
    if (SSL_connect(ssl_.get()) != 1) return false;
    if (SSL_write(ssl_.get(), bytes.data(), static_cast<int>(bytes.size())) <= 0) return false;
    char answer[16];
    return SSL_read(ssl_.get(), answer, sizeof(answer)) > 0;
  }

 private:
  RawSocket socket_;
  OpensslHandle<SSL_CTX, SSL_CTX_free> context_;
  OpensslHandle<SSL, SSL_free> ssl_;
};

TEST_F(TlsControlTest, TheServerChecksForItself) {
  const std::string job = certificates_.make("a");
  const std::string other = certificates_.make("b", 0, 30, job);
  start(job + "/coordinator");
  const std::string status = call_header("status") + '\0';
  EXPECT_TRUE(CarelessClient(job + "/node", server_->port()).is_taken(status));
  EXPECT_FALSE(CarelessClient(other + "/node", server_->port()).is_taken(status));
  EXPECT_TRUE(eventually([&] { return log().find("node of job 'b', not of") != log().npos; }))
      << log();
  std::this_thread::sleep_for(std::chrono::milliseconds(1010));  // one line a second
  EXPECT_FALSE(CarelessClient("", server_->port()).is_taken(status));
  EXPECT_TRUE(eventually([&] { return log().find("showed no certificate") != log().npos; }))
      << log();
}

TEST_F(TlsControlTest, ExpiredAndFutureCertificatesAreRefusedByDate) {
  const std::string job = certificates_.make("a");
  start(job + "/coordinator");
  const auto node_of = [&](const char* name, int age_days) {
    // Signed by the same authority, of the same job.
    std::filesystem::create_directories(job + "/" + name);
    std::filesystem::copy(job + "/authority", job + "/" + name + "/authority");
    CertificatesOptions options = certificates_.of("a", 30);
    options.folder = job + "/" + name;
    options.now -= age_days * TestCertificates::kDay;
    EXPECT_TRUE(make_certificates(options).ok());
    return options.folder + "/node";
  };
  expect_refused(node_of("old", 40), "expired", "expired on");
  std::this_thread::sleep_for(std::chrono::milliseconds(1010));
  expect_refused(node_of("new", -10), "the log there says why", "is not valid before");
}

TEST_F(TlsControlTest, ForeignCertificatesAreRefusedByAuthority) {
  const std::string job = certificates_.make("a");
  start(job + "/coordinator");
  CertificatesOptions options = certificates_.of("a");
  options.folder += "-foreign";
  ASSERT_TRUE(make_certificates(options).ok());
  // It trusts the coordinator: only the coordinator can refuse.
  std::filesystem::copy_file(job + "/node/ca.crt", options.folder + "/node/ca.crt",
                             std::filesystem::copy_options::overwrite_existing);
  expect_refused(options.folder + "/node", "foreign there", "foreign authority");
}

TEST_F(TlsControlTest, PlainAndTlsDoNotMix) {
  const std::string job = certificates_.make("a");
  start(job + "/coordinator");
  const auto plain = make_control_client({"127.0.0.1", server_->port()});
  ASSERT_TRUE(plain.ok());
  EXPECT_FALSE((*plain)->status().ok());
  EXPECT_TRUE(eventually([&] { return log().find("does not speak TLS") != log().npos; })) << log();

  auto in_plain = make_control_server(kAnyPort, service_);
  ASSERT_TRUE(in_plain.ok());
  server_ = std::move(in_plain).value();
  EXPECT_FALSE(connect(job + "/node").ok());
}

TEST_F(TlsControlTest, ASilentHandshakeIsEnded) {
  const std::string job = certificates_.make("a");
  ControlServerOptions options;
  options.first_call_timeout_ms = 200;
  start(job + "/coordinator", options);
  RawSocket silent(server_->port());
  RawSocket dripping(server_->port());
  const Stopwatch watch;
  const std::string begin("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);
  bool closed = false;
  for (size_t i = 0; i < begin.size() && !closed; ++i) {
    dripping.send(begin.substr(i, 1));
    closed = dripping.wait_for_close(50);
  }
  EXPECT_TRUE(closed);
  EXPECT_TRUE(silent.wait_for_close(1500));
  EXPECT_LT(watch.ms(), 1500);
  EXPECT_TRUE(hello(job + "/node").ok());
}

// 500 strangers who stay: those who work are served, and a client that has polled keeps its line.
TEST_F(TlsControlTest, StrangersKeepNobodyOut) {
  const std::string job = certificates_.make("a");
  for (const bool tls : {true, false}) {
    ControlServerOptions options;
    options.max_strangers = 16;
    if (tls) {
      start(job + "/coordinator", options);
    } else {
      server_ = std::move(make_control_server(kAnyPort, service_, options)).value();
    }
    ControlClientOptions how;
    if (tls) how.tls = TestCertificates::load(job + "/node");
    auto worker = make_control_client({"127.0.0.1", server_->port()}, how);
    ASSERT_TRUE(worker.ok());
    ASSERT_TRUE((*worker)->poll({7, 3, 0}).ok());
    std::vector<std::unique_ptr<RawSocket>> strangers;
    for (int i = 0; i < 500; ++i) {
      strangers.push_back(std::make_unique<RawSocket>(server_->port()));
      if (i % 3 == 0) strangers.back()->send("\x16");
      if (i % 100 != 99) continue;
      EXPECT_TRUE((*worker)->poll({7, 3, 0}).ok());
      auto another = make_control_client({"127.0.0.1", server_->port()}, how);
      ASSERT_TRUE(another.ok()) << another.error().message;
      EXPECT_TRUE((*another)->hello({1, "version", "name"}).ok());
    }
    EXPECT_TRUE(service_.lost().empty());
    worker->reset();
    EXPECT_TRUE(eventually([&] { return service_.lost().size() == 1; }));
    server_.reset();
    service_.forget_lost();
  }
}

TEST_F(TlsControlTest, AnAuthorityIsReplacedWhileAllTrustAll) {
  const std::string job = certificates_.make("a");
  const CertificatesOptions options = certificates_.of("a");
  // As they were handed out at that time.
  int stage = 0;
  const auto now = [&] {
    const std::string folder = fmt::format("{}-{}", job, ++stage);
    std::filesystem::copy(job, folder, std::filesystem::copy_options::recursive);
    return std::make_pair(TestCertificates::load(folder + "/coordinator"),
                          TestCertificates::load(folder + "/node"));
  };
  const auto talk = [&](const auto& server_side, const auto& client_side) {
    ControlServerOptions of_server;
    of_server.tls = server_side;
    const auto server = make_control_server(kAnyPort, service_, of_server);
    ControlClientOptions of_client;
    of_client.tls = client_side;
    auto client = make_control_client({"127.0.0.1", (*server)->port()}, of_client);
    return client.ok() && (*client)->status().ok();
  };
  EXPECT_FALSE(rotate_authority(options, Rotation::issue).ok());
  std::vector stages = {now()};
  for (const Rotation move : {Rotation::trust, Rotation::issue, Rotation::retire}) {
    const auto done = rotate_authority(options, move);
    ASSERT_TRUE(done.ok()) << done.error().message;
    stages.push_back(now());
    // Processes with the files before and after a move work together.
    const auto& before = stages[stages.size() - 2];
    const auto& after = stages.back();
    EXPECT_TRUE(talk(before.first, after.second));
    EXPECT_TRUE(talk(after.first, before.second));
    EXPECT_TRUE(talk(after.first, after.second));
  }
  EXPECT_FALSE(talk(stages[3].first, stages[0].second));
  EXPECT_FALSE(talk(stages[0].first, stages[3].second));
}

TEST_F(TlsControlTest, FilesThatChangeCountFromTheNextConnectionOn) {
  const std::string job = certificates_.make("a");
  start(job + "/coordinator");
  const auto node = TestCertificates::load(job + "/node");
  const auto talks = [&] {
    ControlClientOptions options;
    options.tls = node;
    auto client = make_control_client({"127.0.0.1", server_->port()}, options);
    return client.ok() && (*client)->status().ok();
  };
  ASSERT_TRUE(talks());
  // Another authority for all: whoever still had the old files would be refused.
  const std::string other = certificates_.make("b");
  const auto replace = [&](const std::string& file, const std::string& from) {
    std::filesystem::copy_file(from + file, job + file,
                               std::filesystem::copy_options::overwrite_existing);
  };
  std::filesystem::remove_all(job + "/authority");
  for (const char* role : {"/coordinator", "/node"}) {
    for (const char* file : {"/ca.crt", "/tls.crt", "/tls.key"}) {
      std::filesystem::remove(job + role + file);
    }
  }
  EXPECT_TRUE(talks());  // in the midst of it
  ASSERT_TRUE(make_certificates(certificates_.of("a")).ok());
  EXPECT_TRUE(talks());
  EXPECT_THAT(log(), HasSubstr("new certificates"));
  for (const char* file : {"/node/ca.crt", "/node/tls.crt", "/node/tls.key"}) replace(file, other);
  EXPECT_TRUE(talks());  // of another job: those of before still count
}

TEST(Certificates, WhatACrashLeftOfARenewalIsRenewed) {
  TestCertificates certificates;
  const std::string job = certificates.make("a");
  const CertificatesOptions options = certificates.of("a");
  std::filesystem::copy_file(job + "/operator/tls.key", job + "/node/tls.key",
                             std::filesystem::copy_options::overwrite_existing);
  ASSERT_FALSE(TlsContext::load(job + "/node").ok());
  ASSERT_TRUE(renew_certificates(options).ok());
  EXPECT_TRUE(TlsContext::load(job + "/node").ok());

  ASSERT_TRUE(rotate_authority(options, Rotation::trust).ok());
  std::filesystem::rename(job + "/authority/next.key", job + "/authority/ca.key");
  const auto issued = rotate_authority(options, Rotation::issue);
  ASSERT_TRUE(issued.ok()) << issued.error().message;
  EXPECT_TRUE(TlsContext::load(job + "/node").ok());
  EXPECT_TRUE(rotate_authority(options, Rotation::retire).ok());
}

TEST(Certificates, KeysAreTheirOwnersAlone) {
  TestCertificates certificates;
  const std::string job = certificates.make("a");
  struct stat info {};
  for (const char* file :
       {"/authority/ca.key", "/coordinator/tls.key", "/node/tls.key", "/operator/tls.key"}) {
    ASSERT_EQ(stat((job + file).c_str(), &info), 0) << file;
    EXPECT_EQ(info.st_mode & 0777, 0600u) << file;
  }
  const std::string key = job + "/node/tls.key";
  ASSERT_EQ(chmod(key.c_str(), 0644), 0);
  const auto loaded = TlsContext::load(job + "/node");
  ASSERT_FALSE(loaded.ok());
  EXPECT_THAT(loaded.error().message, AllOf(HasSubstr(key), HasSubstr("chmod 600")));
}

TEST(Certificates, FoldersSayWhatTheyLack) {
  TestCertificates certificates;
  const std::string job = certificates.make("a");
  EXPECT_FALSE(make_certificates({job, "b", 30, 0}).ok());
  EXPECT_FALSE(make_certificates({job, "a/b", 30, 0}).ok());
  EXPECT_FALSE(make_certificates({job, "a", 0, 0}).ok());
  ASSERT_TRUE(std::filesystem::remove(job + "/node/tls.crt"));
  const auto loaded = TlsContext::load(job + "/node");
  ASSERT_FALSE(loaded.ok());
  EXPECT_THAT(loaded.error().message, AllOf(HasSubstr("tls.crt"), HasSubstr("lockstep certs")));
  const auto again = make_certificates(certificates.of("a"));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->size(), 1u);
  EXPECT_TRUE(TlsContext::load(job + "/node").ok());
}

// --- tensor streams ---

Result<std::shared_ptr<ByteStream>> dial(const std::string& folder, int port) {
  const auto network = make_thrift_network({.tls = TestCertificates::load(folder)});
  return network->connect_stream({"127.0.0.1", port}, 1000);
}

TEST(TlsStreams, OnlyNodesExchangeTensors) {
  TestCertificates certificates;
  const std::string job = certificates.make("a");
  const auto network = make_thrift_network({.tls = TestCertificates::load(job + "/node")});
  std::atomic<int> accepted{0};
  auto listener =
      network->listen_streams(kAnyPort, [&](std::shared_ptr<ByteStream>) { ++accepted; });
  ASSERT_TRUE(listener.ok());
  EXPECT_TRUE(dial(job + "/node", (*listener)->port()).ok());
  for (const char* role : {"/coordinator", "/operator"}) {
    EXPECT_FALSE(dial(job + role, (*listener)->port()).ok());
  }
  EXPECT_EQ(accepted, 1);
}

TEST(TlsStreams, LargeMessagesBothWaysAtOnce) {
  TestCertificates certificates;
  const std::string job = certificates.make("a");
  const auto network =
      make_thrift_network({.shared_memory = false, .tls = TestCertificates::load(job + "/node")});
  std::promise<std::shared_ptr<ByteStream>> promise;
  auto listener = network->listen_streams(
      kAnyPort, [&](std::shared_ptr<ByteStream> stream) { promise.set_value(std::move(stream)); });
  ASSERT_TRUE(listener.ok());
  const auto dialed = network->connect_stream({"127.0.0.1", (*listener)->port()}, 1000);
  ASSERT_TRUE(dialed.ok()) << dialed.error().message;
  const auto accepted = promise.get_future().get();
  EXPECT_FALSE(accepted->in_memory());
  const auto exchange = [](ByteStream& stream, uint32_t first) {
    constexpr size_t kWords = 1 << 20;
    std::vector<uint32_t> out(kWords);
    std::iota(out.begin(), out.end(), first);
    std::thread writer([&] { EXPECT_TRUE(stream.write(&first, 4, out.data(), 4 * kWords).ok()); });
    uint32_t header = 0;
    std::vector<uint32_t> in(kWords);
    EXPECT_TRUE(stream.read(&header, 4, 5000).ok());
    EXPECT_TRUE(stream.read(in.data(), 4 * kWords, 5000).ok());
    writer.join();
    std::iota(out.begin(), out.end(), header);
    EXPECT_EQ(in, out);
    EXPECT_NE(header, first);
  };
  std::thread other([&] { exchange(*accepted, 1'000'000); });
  exchange(**dialed, 5);
  other.join();
  // An end wakes the reader at the other end.
  std::thread closer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    (*dialed)->close();
  });
  char byte = 0;
  const auto status = accepted->read(&byte, 1, 0);
  closer.join();
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("closed by the peer"));
}

TEST(Listening, OnlyLoopbackListensInPlain) {
  std::string log;
  FakeService service;
  const auto network = make_thrift_network();
  const auto refused = network->serve_control({"0.0.0.0", 0}, service);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().kind, ErrorKind::usage);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("--tls"), HasSubstr("--insecure")));
  EXPECT_FALSE(network->listen_streams({"0.0.0.0", 0}, [](auto) {}).ok());
  EXPECT_TRUE(network->serve_control({"localhost", 0}, service).ok());

  const auto insecure =
      make_thrift_network({.insecure = true, .log = [&](const std::string& line) { log += line; }});
  EXPECT_TRUE(insecure->serve_control({"127.0.0.1", 0}, service).ok());
  EXPECT_EQ(log, "");
  EXPECT_TRUE(insecure->serve_control({"0.0.0.0", 0}, service).ok());
  EXPECT_THAT(log, AllOf(HasSubstr("warning"), HasSubstr("0.0.0.0")));

  TestCertificates certificates;
  const std::string folder = certificates.make("a") + "/coordinator";
  const auto secure = make_thrift_network({.tls = TestCertificates::load(folder)});
  EXPECT_TRUE(secure->serve_control({"0.0.0.0", 0}, service).ok());
}

}  // namespace
}  // namespace lockstep
