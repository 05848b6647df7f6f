#include "host/cli/local_nodes.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>

#include "host/runtime/clock.h"

namespace lockstep {
namespace {

constexpr int kGraceMs = 600;  // between a process' end and the coordinator's own view of it
constexpr int kEndMs = 200;
constexpr int kHandedOver = 128 + SIGTERM;

std::string how_it_ended(int code) {
  return code > 128 ? fmt::format("was ended by signal {}", code - 128)
                    : fmt::format("ended with exit code {}", code);
}

}  // namespace

std::vector<std::string> node_arguments(const LocalNode& node) {
  return {"node",
          "--coordinator",
          fmt::format("127.0.0.1:{}", node.port),
          "--listen",
          "127.0.0.1:0",
          "--name",
          node.name,
          "--devices",
          std::to_string(node.devices),
          "--first-device",
          std::to_string(node.index * node.devices),
          "--device",
          node.device,
          "--tls",
          "",
          "--metrics-listen",
          "",
          "--log-format",
          node.json_logs ? "json" : "text",
          "--data",
          node.data};
}

Status LocalNodes::start() {
  for (int index = 0; index < counts_.most; ++index) {
    Node node;
    node.index = index;
    node.name = fmt::format("node-{}", index);
    LOCKSTEP_RETURN_IF_ERROR(start_process(node));
    nodes_.push_back(std::move(node));
  }
  return {};
}

Status LocalNodes::start_process(Node& node) {
  node.start_ms.reset();
  node.worked = false;
  node.begun_ms = monotonic_ms();
  LOCKSTEP_ASSIGN(auto process, spawn_(node.name, node.index));
  node.process.emplace(std::move(process));
  return {};
}

std::optional<std::string> LocalNodes::tend(const Seen& seen) {
  for (Node& node : nodes_) {
    if (seen.worked.contains(node.name)) node.worked = true;
    look_after(node);
    if (const auto failure = see_to_failure(node, seen.begun)) return failure;
    const bool is_due = node.start_ms && monotonic_ms() >= *node.start_ms;
    if (!is_due || seen.present.contains(node.name)) continue;
    const Status started = start_process(node);
    if (!started.ok()) return started.error().message;
  }
  return too_few(seen.begun);
}

void LocalNodes::look_after(Node& node) {
  if (!node.process) return;
  const auto code = node.process->poll();
  if (!code) return;
  node.process.reset();
  node.ended_ms = monotonic_ms();
  if (*code == 0 || *code == kHandedOver) {
    node.gone = true;
  } else {
    node.failed = code;
  }
}

std::optional<std::string> LocalNodes::see_to_failure(Node& node, bool begun) {
  if (!node.failed) return std::nullopt;
  if (!begun) {
    // The coordinator may know more of it, and say so.
    if (monotonic_ms() - node.ended_ms < kGraceMs) return std::nullopt;
    return "a node process ended before the job was done; its message stands above";
  }
  const auto delay_ms = node.policy.after_failure(node.ended_ms - node.begun_ms, node.worked);
  const std::string how = how_it_ended(*node.failed);
  node.failed.reset();
  if (!delay_ms) {
    return fmt::format(
        "node '{}' {}, {} times in a row and without any work done; its message stands above",
        node.name, how, RestartPolicy::kMaxRestarts + 1);
  }
  say_(fmt::format("node '{}' {}: it is started again in {:.1f} s", node.name, how,
                   *delay_ms / 1000.0));
  node.start_ms = node.ended_ms + *delay_ms;
  return std::nullopt;
}

// Those that handed over do not come back.
std::optional<std::string> LocalNodes::too_few(bool begun) {
  const auto left =
      std::count_if(nodes_.begin(), nodes_.end(), [](const Node& node) { return !node.gone; });
  const int needed = begun ? counts_.least : counts_.start;
  if (left >= needed) {
    too_few_since_ms_.reset();
    return std::nullopt;
  }
  if (!too_few_since_ms_) too_few_since_ms_ = monotonic_ms();
  if (monotonic_ms() - *too_few_since_ms_ < kGraceMs) return std::nullopt;
  return fmt::format("{} of the {} nodes have left, and the job needs {}", counts_.most - left,
                     counts_.most, needed);
}

std::optional<std::string> LocalNodes::kill_one() {
  if (nodes_.empty() || !nodes_.back().process) return std::nullopt;
  nodes_.back().process->signal(SIGKILL);
  return nodes_.back().name;
}

void LocalNodes::end() {
  const int64_t end_ms = monotonic_ms() + kEndMs;
  for (Node& node : nodes_) {
    const auto left_ms = static_cast<int>(std::max<int64_t>(0, end_ms - monotonic_ms()));
    if (node.process && !node.process->wait(left_ms)) node.process->signal(SIGKILL);
  }
  nodes_.clear();
}

}  // namespace lockstep
