#include "host/cluster/batch_queue.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep {
namespace {

constexpr int64_t kTerm = 1;          // who comes back after its end begins anew
constexpr int64_t kMostBatches = 64;  // for a node at a time
constexpr int64_t kTurnMs = 500;      // what they take, more or less: as much is lost with a node
// How far the batches under way may lie apart: what comes early is kept.
constexpr int64_t kWindow = 64 * kMostBatches;

}  // namespace

ByteRange ResultArray::bytes_of(const BatchRange& batches) const {
  return {std::min(batches.begin * bytes_of_batch, bytes),
          std::min(batches.end * bytes_of_batch, bytes)};
}

Result<Welcome> BatchQueue::hello(const Hello& hello, int64_t now_ms) {
  LOCKSTEP_RETURN_IF_ERROR(check_version(facts_.terms, hello));
  if (done()) return refused_error("refused to join: the work is done");
  if (live_count() >= facts_.max_nodes) {
    const bool room_may_come = std::any_of(nodes_.begin(), nodes_.end(), [&](const auto& entry) {
      return entry.second.live() && is_silent(entry.second.lease_ends_ms, facts_.lease_ms, now_ms);
    });
    if (room_may_come) return Error{"all nodes are there, and one may be gone; try again"};
    return refused_error("refused to join: the work has all its nodes (--nodes)");
  }
  const SessionId session = ++sessions_;
  nodes_[session].hello = hello;
  return Welcome{session, kTerm, facts_.task};
}

Result<BatchQueue::Node*> BatchQueue::member(SessionId session) {
  const auto found = nodes_.find(session);
  if (found == nodes_.end() || found->second.left) {
    return refused_error("unknown session: this node is not, or no longer, part of the work");
  }
  return &found->second;
}

Status BatchQueue::join(const JoinRequest& request, int64_t now_ms) {
  LOCKSTEP_ASSIGN(Node * node, member(request.session));
  if (node->joined) return {};
  if (done()) return refused_error("refused to join: the work is done");
  if (live_count() >= facts_.max_nodes) {
    return refused_error("refused to join: the work has all its nodes (--nodes)");
  }
  LOCKSTEP_RETURN_IF_ERROR(check_join(facts_.terms, canary_, request));
  if (canary_.empty()) canary_ = request.canary;
  node->join = request;
  node->joined = true;
  node->lease_ends_ms = now_ms + facts_.lease_ms;
  events_.push_back(
      WorkerJoined{request.session, node->hello.name, request.device, request.devices});
  return {};
}

Status BatchQueue::renew(SessionId session, int64_t now_ms) {
  LOCKSTEP_ASSIGN(Node * node, member(session));
  node->lease_ends_ms = now_ms + facts_.lease_ms;
  return {};
}

Result<WorkReply> BatchQueue::next(const WorkRequest& request, int64_t now_ms) {
  LOCKSTEP_RETURN_IF_ERROR(renew(request.session, now_ms));
  Node& node = nodes_.at(request.session);
  if (!node.joined) return refused_error("this node has not joined");
  // What is said to be done a second time was answered before, and the answer was lost.
  if (!request.done.empty() && request.done == node.batches) {
    LOCKSTEP_RETURN_IF_ERROR(finish(node, now_ms));
  }
  if (node.batches.empty()) {
    node.batches = take(node.at_once);
    node.begun_ms = now_ms;
    node.delivered.assign(facts_.arrays.size(), 0);
  }
  return WorkReply{node.batches, done()};
}

Status BatchQueue::finish(Node& node, int64_t now_ms) {
  for (size_t i = 0; i < facts_.arrays.size(); ++i) {
    const ByteRange bytes = facts_.arrays[i].bytes_of(node.batches);
    if (node.delivered[i] == bytes.end - bytes.begin) continue;
    return refused_error(fmt::format(
        "batches {}..{} are not done: of array {} there are {} of {} bytes", node.batches.begin,
        node.batches.end - 1, i, node.delivered[i], bytes.end - bytes.begin));
  }
  const bool soon = now_ms - node.begun_ms < kTurnMs / 2;
  const bool late = now_ms - node.begun_ms > kTurnMs;
  node.at_once = std::clamp<int64_t>(soon   ? node.at_once * 2
                                     : late ? node.at_once / 2
                                            : node.at_once,
                                     1, kMostBatches);
  batches_done_ += node.batches.size();
  events_.push_back(BatchesDone{node.join.session, node.hello.name, node.batches});
  node.batches = {};
  return {};
}

// Fewer as the end comes near, so that nobody waits long for others.
BatchRange BatchQueue::take(int64_t at_once) {
  if (!returned_.empty()) {
    const BatchRange batches = returned_.back();
    returned_.pop_back();
    return batches;
  }
  const int64_t left = facts_.batches - fresh_;
  if (left == 0 || fresh_ >= first_unfinished() + kWindow) return {};
  const int64_t share = left / (2 * std::max(1, live_count()));
  const BatchRange batches{fresh_, fresh_ + std::clamp<int64_t>(share, 1, at_once)};
  fresh_ = batches.end;
  return batches;
}

int64_t BatchQueue::first_unfinished() const {
  int64_t first = fresh_;
  for (const auto& [session, node] : nodes_) {
    if (!node.batches.empty()) first = std::min(first, node.batches.begin);
  }
  return returned_.empty() ? first : std::min(first, returned_.back().begin);
}

Status BatchQueue::check(const ResultPart& part, int64_t now_ms) {
  LOCKSTEP_RETURN_IF_ERROR(renew(part.session, now_ms));
  return check_place(nodes_.at(part.session), part);
}

Status BatchQueue::check_place(const Node& node, const ResultPart& part) const {
  const auto array = static_cast<size_t>(part.array);
  if (array >= facts_.arrays.size() || node.batches.empty()) {
    return refused_error("results that this node was not asked for");
  }
  const ByteRange bytes = facts_.arrays[array].bytes_of(node.batches);
  const auto size = static_cast<int64_t>(part.bytes.size());
  const bool inside = part.offset >= bytes.begin && part.offset <= bytes.end - size;
  if (inside && part.offset <= bytes.begin + node.delivered[array]) return {};
  return refused_error(fmt::format(
      "{} bytes of array {} from {} on, which do not follow what came before of batches {}..{}",
      size, part.array, part.offset, node.batches.begin, node.batches.end - 1));
}

// Twice where the answer to the first was lost; and perhaps the node was given up meanwhile.
void BatchQueue::accepted(const ResultPart& part) {
  const auto found = nodes_.find(part.session);
  if (found == nodes_.end() || !check_place(found->second, part).ok()) return;
  Node& node = found->second;
  const auto array = static_cast<size_t>(part.array);
  const int64_t end = part.offset + static_cast<int64_t>(part.bytes.size());
  int64_t& delivered = node.delivered[array];
  delivered = std::max(delivered, end - facts_.arrays[array].bytes_of(node.batches).begin);
}

void BatchQueue::leave(SessionId session, const std::string& why) {
  const auto found = nodes_.find(session);
  if (found == nodes_.end() || found->second.left) return;
  Node& node = found->second;
  node.left = true;
  if (!node.joined) return;
  if (!node.batches.empty()) {
    returned_.push_back(node.batches);
    std::sort(returned_.begin(), returned_.end(),
              [](const BatchRange& a, const BatchRange& b) { return a.begin > b.begin; });
  }
  events_.push_back(WorkerLeft{session, node.hello.name, why, std::exchange(node.batches, {})});
}

void BatchQueue::connection_lost(SessionId session, int64_t now_ms) {
  const auto found = nodes_.find(session);
  if (found == nodes_.end() || found->second.left) return;
  found->second.lease_ends_ms = std::min(found->second.lease_ends_ms, now_ms + kReconnectMs);
}

void BatchQueue::tick(int64_t now_ms) {
  for (auto& [session, node] : nodes_) {
    if (node.live() && now_ms >= node.lease_ends_ms) leave(session, "it gave no sign of life");
  }
}

std::vector<BatchQueue::Worker> BatchQueue::workers() const {
  std::vector<Worker> all;
  for (const auto& [session, node] : nodes_) {
    if (node.live()) all.push_back({session, node.hello.name, node.join.address, node.batches});
  }
  return all;
}

int BatchQueue::live_count() const {
  return static_cast<int>(std::count_if(nodes_.begin(), nodes_.end(),
                                        [](const auto& entry) { return entry.second.live(); }));
}

}  // namespace lockstep
