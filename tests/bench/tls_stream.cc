// Tensor streams under TLS beside raw TLS over one socket: two threads of one process, loopback,
// alternately, medians. Prints one line of JSON.
#include <fmt/format.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <future>
#include <thread>
#include <vector>

#include "rpc/certificates.h"
#include "rpc/network.h"
#include "rpc/sockets.h"
#include "tests/rpc/raw_socket.h"

namespace lockstep {
namespace {

constexpr size_t kBytes = 256 << 20;
constexpr size_t kFrameBytes = 4 << 20;  // as a slice of a gradient
constexpr size_t kRawBytes = 64 << 10;   // a call of SSL_write, SSL_read
constexpr int kRounds = 7;

using Clock = std::chrono::steady_clock;

double gigabytes_per_second(Clock::time_point begin) {
  return kBytes / std::chrono::duration<double>(Clock::now() - begin).count() / 1e9;
}

// One connection, one direction: `write` and `read` move kBytes.
template <class Write, class Read>
double measure(const Write& write, const Read& read) {
  const auto begin = Clock::now();
  std::thread writer(write);
  read();
  writer.join();
  return gigabytes_per_second(begin);
}

// Blocking sockets, OpenSSL's defaults, large calls: what a program gets without further thought.
class RawPair {
 public:
  explicit RawPair(const std::string& folder) {
    for (auto* context : {&server_context_, &client_context_}) {
      context->reset(SSL_CTX_new(TLS_method()));
      SSL_CTX_use_certificate_chain_file(context->get(), (folder + "/tls.crt").c_str());
      SSL_CTX_use_PrivateKey_file(context->get(), (folder + "/tls.key").c_str(), SSL_FILETYPE_PEM);
    }
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    LOCKSTEP_CHECK(bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                   listen(listener, 1) == 0);
    getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
    client_socket_ = std::make_unique<RawSocket>(ntohs(address.sin_port));
    server_socket_ = accept(listener, nullptr, nullptr);
    ::close(listener);
    server_.reset(SSL_new(server_context_.get()));
    client_.reset(SSL_new(client_context_.get()));
    SSL_set_fd(server_.get(), server_socket_);
    SSL_set_fd(client_.get(), client_socket_->descriptor());
    std::thread other([this] { LOCKSTEP_CHECK(SSL_accept(server_.get()) == 1); });
    LOCKSTEP_CHECK(SSL_connect(client_.get()) == 1);
    other.join();
  }
  ~RawPair() { ::close(server_socket_); }

  double measure_once(std::vector<char>& out, std::vector<char>& in) {
    const auto move = [](auto call, SSL* ssl, char* data) {
      for (size_t done = 0; done < kBytes;) {
        const size_t at = done % kFrameBytes;
        const int moved =
            call(ssl, data + at, static_cast<int>(std::min(kRawBytes, kFrameBytes - at)));
        LOCKSTEP_CHECK(moved > 0);
        done += static_cast<size_t>(moved);
      }
    };
    return measure([&] { move(SSL_write, client_.get(), out.data()); },
                   [&] { move(SSL_read, server_.get(), in.data()); });
  }
  const char* cipher() const { return SSL_get_cipher(client_.get()); }

 private:
  OpensslHandle<SSL_CTX, SSL_CTX_free> server_context_;
  OpensslHandle<SSL_CTX, SSL_CTX_free> client_context_;
  std::unique_ptr<RawSocket> client_socket_;
  int server_socket_ = -1;
  OpensslHandle<SSL, SSL_free> server_;
  OpensslHandle<SSL, SSL_free> client_;
};

// Frames over the streams that nodes use.
class StreamPair {
 public:
  explicit StreamPair(const std::shared_ptr<const TlsContext>& tls)
      : network_(make_thrift_network({.shared_memory = false, .tls = tls})) {
    std::promise<std::shared_ptr<ByteStream>> accepted;
    auto listener = network_->listen_streams(
        {"127.0.0.1", 0}, [&](std::shared_ptr<ByteStream> stream) { accepted.set_value(stream); });
    LOCKSTEP_CHECK(listener.ok());
    listener_ = std::move(listener).value();
    auto dialed = network_->connect_stream({"127.0.0.1", listener_->port()}, 2000);
    LOCKSTEP_CHECK(dialed.ok());
    client_ = *dialed;
    server_ = accepted.get_future().get();
  }

  double measure_once(std::vector<char>& out, std::vector<char>& in) {
    char header[48] = {};
    return measure(
        [&] {
          for (size_t done = 0; done < kBytes; done += kFrameBytes) {
            LOCKSTEP_CHECK(client_->write(header, sizeof(header), out.data(), kFrameBytes).ok());
          }
        },
        [&] {
          char got[48];
          for (size_t done = 0; done < kBytes; done += kFrameBytes) {
            LOCKSTEP_CHECK(server_->read(got, sizeof(got), 0).ok());
            LOCKSTEP_CHECK(server_->read(in.data(), kFrameBytes, 0).ok());
          }
        });
  }

 private:
  const std::unique_ptr<Network> network_;
  std::unique_ptr<StreamListener> listener_;  // its end would close a stream whose callback runs
  std::shared_ptr<ByteStream> client_;
  std::shared_ptr<ByteStream> server_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void run() {
  std::signal(SIGPIPE, SIG_IGN);
  const std::string folder = fmt::format("{}/lockstep-bench-{}",
                                         std::filesystem::temp_directory_path().string(), getpid());
  LOCKSTEP_CHECK(make_certificates({folder, "bench", 1, std::time(nullptr)}).ok());
  const auto tls = TlsContext::load(folder + "/node");
  LOCKSTEP_CHECK(tls.ok());
  std::vector<char> out(kFrameBytes, 'x');
  std::vector<char> in(kFrameBytes);
  RawPair raw(folder + "/node");
  StreamPair stream(*tls);
  StreamPair plain(nullptr);
  std::vector<double> raws, streams, plains;
  for (int round = 0; round < kRounds; ++round) {
    raws.push_back(raw.measure_once(out, in));
    streams.push_back(stream.measure_once(out, in));
    plains.push_back(plain.measure_once(out, in));
  }
  std::filesystem::remove_all(folder);
  fmt::print(
      "{{\"cipher\": \"{}\", \"raw_tls_gb_per_s\": {:.2f}, \"stream_tls_gb_per_s\": {:.2f}, "
      "\"stream_plain_gb_per_s\": {:.2f}, \"ratio\": {:.2f}}}\n",
      raw.cipher(), median(raws), median(streams), median(plains), median(streams) / median(raws));
}

}  // namespace
}  // namespace lockstep

int main() {
  lockstep::run();
  return 0;
}
