#include "host/cli/bench_average.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "host/cli/factories.h"
#include "host/core/files.h"
#include "host/runtime/child_process.h"
#include "host/runtime/peer_links.h"
#include "rpc/network.h"

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWarmUp = 5;  // rounds, in which memory is taken
constexpr int kTimeoutMs = 20'000;
constexpr int kProcessTimeoutMs = 300'000;

std::string port_file(const std::string& folder, int index) {
  return fmt::format("{}/port-{}", folder, index);
}

// Waits until every process has written its port.
Result<View> meet(const std::string& folder, int nodes, int slices) {
  View view;
  view.number = 1;
  std::vector<PartitionRange> ranges;
  const auto deadline = Clock::now() + std::chrono::milliseconds(kTimeoutMs);
  for (int index = 0; index < nodes; ++index) {
    while (!file_exists(port_file(folder, index))) {
      if (Clock::now() > deadline) return Error{fmt::format("process {} did not come", index)};
      ::usleep(2000);
    }
    LOCKSTEP_ASSIGN(const std::string port, read_file(port_file(folder, index)));
    view.members.push_back({index + 1,
                            fmt::format("process-{}", index),
                            "127.0.0.1:" + port,
                            {index, index + 1},
                            {},
                            0});
    ranges.push_back({index, index + 1});
  }
  view.slice_owners = assign_slice_owners(slices, ranges);
  return view;
}

// The seconds of each round. The values grow with the process and the place, so that the sum can
// be checked.
Result<std::vector<double>> average_rounds(Exchange& exchange, Device& device, int index, int nodes,
                                           int64_t count, int64_t rounds) {
  LOCKSTEP_ASSIGN(const auto buffer, device.allocate_host(count * 4));
  float* mine = buffer->data();
  for (int64_t i = 0; i < count; ++i) mine[i] = static_cast<float>(index + i % 7);
  const float* averaged = nullptr;
  const Subtree leaf{index, 0};
  std::vector<double> seconds;
  for (int64_t round = 0; round < rounds; ++round) {
    const auto begin = Clock::now();
    exchange.begin(round, {{leaf, mine}}, 1);
    exchange.local_ready(round, 0, count);
    if (exchange.wait(round, kTimeoutMs) != Exchange::Waited::complete) {
      return Error{fmt::format("round {} did not complete", round)};
    }
    averaged = exchange.reduced(round);
    exchange.applied(round);
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  for (int64_t i = 0; i < count; i += 1009) {
    const float expected = static_cast<float>(nodes - 1) / 2 + static_cast<float>(i % 7);
    if (averaged[i] != expected) return Error{fmt::format("wrong average at {}", i)};
  }
  return seconds;
}

}  // namespace

Result<nlohmann::json> bench_average_process(const nlohmann::json& values, Context&) {
  const std::string folder = values.at("folder");
  const int index = values.at("index");
  const int nodes = values.at("nodes");
  const int64_t count = values.at("megabytes").get<int64_t>() * 1'000'000 / 4;
  LOCKSTEP_ASSIGN(const auto device, make_device("cpu", values.at("numerics"), 0));
  const auto network = make_thrift_network({.shared_memory = values.at("transport") != "tcp"});
  PeerLinks links(*network, {1, nullptr, kTimeoutMs});
  links.set_session(index + 1);
  LOCKSTEP_ASSIGN(const int port, links.listen({"127.0.0.1", 0}));
  LOCKSTEP_RETURN_IF_ERROR(write_file_atomically(port_file(folder, index), std::to_string(port)));
  ExchangeOptions options;
  options.layout = SliceLayout(count);
  LOCKSTEP_ASSIGN(const View view, meet(folder, nodes, options.layout.count()));
  options.partitions = nodes;
  options.rows_of_step = [nodes](int64_t) { return nodes; };
  options.send = [&links](SessionId to, Frame frame) { links.send(to, std::move(frame)); };
  options.scale = 1.0f / static_cast<float>(nodes);
  LOCKSTEP_ASSIGN(const auto exchange, Exchange::create(options, *device));
  exchange->adopt(view, index + 1, 0);
  links.connect(view, exchange.get());
  LOCKSTEP_ASSIGN(auto seconds, average_rounds(*exchange, *device, index, nodes, count,
                                               values.at("rounds").get<int64_t>() + kWarmUp));
  // The last frames must be out before the streams close.
  ::usleep(200'000);
  seconds.erase(seconds.begin(), seconds.begin() + kWarmUp);
  std::sort(seconds.begin(), seconds.end());
  return nlohmann::json{{"seconds", seconds[seconds.size() / 2]}};
}

Result<nlohmann::json> bench_average(const nlohmann::json& values, Context&) {
  const int nodes = values.at("nodes");
  const std::string folder = fmt::format(
      "{}/lockstep-average-{}", std::filesystem::temp_directory_path().string(), ::getpid());
  LOCKSTEP_RETURN_IF_ERROR(make_writable_folder(folder));
  std::vector<ChildProcess> children;
  for (int index = 0; index < nodes; ++index) {
    LOCKSTEP_ASSIGN(auto child,
                    ChildProcess::spawn_self(
                        {"bench", "average-process", "--folder", folder, "--index",
                         std::to_string(index), "--nodes", std::to_string(nodes), "--megabytes",
                         values.at("megabytes").dump(), "--rounds", values.at("rounds").dump(),
                         "--transport", values.at("transport").get<std::string>()},
                        fmt::format("{}/out-{}", folder, index)));
    children.push_back(std::move(child));
  }
  for (ChildProcess& child : children) {
    if (child.wait(kProcessTimeoutMs) != 0) return Error{"a process of the bench failed"};
  }
  LOCKSTEP_ASSIGN(const std::string line, read_file(folder + "/out-0"));
  std::filesystem::remove_all(folder);
  const auto result = nlohmann::json::parse(line, nullptr, false);
  if (!result.is_object()) return Error{"a process of the bench printed no result"};
  return nlohmann::json{
      {"megabytes", values.at("megabytes")}, {"nodes", nodes}, {"seconds", result.at("seconds")}};
}

}  // namespace lockstep
