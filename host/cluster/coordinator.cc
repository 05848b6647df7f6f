#include "host/cluster/coordinator.h"

#include <fmt/format.h>

#include <algorithm>

#include "host/reduce/layout.h"

namespace lockstep {
namespace {

std::string both_values(const std::string& what, const std::string& node, const std::string& job,
                        const std::string& remedy) {
  return fmt::format("refused to join: {} of this node is '{}', the job's is '{}'; {}", what, node,
                     job, remedy);
}

}  // namespace

int64_t ClusterFacts::rows_of_step(int64_t step) const {
  return std::min(batch_size, train_rows - step % steps_per_epoch() * batch_size);
}

Coordinator::Coordinator(ClusterFacts facts, int64_t term)
    : facts_(std::move(facts)), term_(term) {}

Result<Welcome> Coordinator::hello(const Hello& hello, int64_t now_ms) {
  if (hello.wire_version != kWireVersion || hello.version != facts_.version) {
    return refused_error(both_values("the version",
                                     fmt::format("{} (wire {})", hello.version, hello.wire_version),
                                     fmt::format("{} (wire {})", facts_.version, kWireVersion),
                                     "run the same version of lockstep on all machines"));
  }
  if (phase_ != Phase::gathering) {
    return refused_error("refused to join: the job is already running with all its nodes");
  }
  const SessionId session = ++last_session_;
  Node node;
  node.hello = hello;
  node.lease_ends_ms = now_ms + 60'000;  // it has yet to load its data
  nodes_[session] = node;
  return Welcome{session, term_, facts_.job};
}

Status Coordinator::check_canary(const JoinRequest& request) const {
  for (const auto& [session, node] : nodes_) {
    if (!node.joined || node.left) continue;
    const auto& expected = node.join.canary;
    for (size_t i = 0; i < std::max(expected.size(), request.canary.size()); ++i) {
      const OpDigest mine = i < request.canary.size() ? request.canary[i] : OpDigest{"none", 0};
      const OpDigest theirs = i < expected.size() ? expected[i] : OpDigest{"none", 0};
      if (mine == theirs) continue;
      return refused_error(both_values(
          fmt::format("the canary (op {})", i),
          fmt::format("{} {:016x}", mine.op, static_cast<uint64_t>(mine.hash)),
          fmt::format("{} {:016x}", theirs.op, static_cast<uint64_t>(theirs.hash)),
          "this machine computes other bits: use machines of one kind, or other --numerics"));
    }
    return {};
  }
  return {};
}

Status Coordinator::check_join(const JoinRequest& request) const {
  if (request.numerics != facts_.numerics) {
    return refused_error(both_values("numerics", request.numerics, facts_.numerics,
                                     "start it with the job's numerics"));
  }
  if (request.data_digest != facts_.data_digest) {
    return refused_error(both_values("the data digest", request.data_digest, facts_.data_digest,
                                     "point --data at the same data set"));
  }
  if (request.validation_digest != facts_.validation_digest) {
    return refused_error(both_values("the validation data digest", request.validation_digest,
                                     facts_.validation_digest, "point it at the same data set"));
  }
  return check_canary(request);
}

Status Coordinator::join(const JoinRequest& request, int64_t now_ms, CoordinatorActions* actions) {
  const auto found = nodes_.find(request.session);
  if (found == nodes_.end()) return refused_error("refused to join: unknown session");
  Node& node = found->second;
  if (node.joined) return {};
  if (phase_ != Phase::gathering || joined_count() >= facts_.nodes) {
    return refused_error("refused to join: the job has all its nodes");
  }
  LOCKSTEP_RETURN_IF_ERROR(check_join(request));
  node.join = request;
  node.joined = true;
  node.lease_ends_ms = now_ms + facts_.lease_ms;
  actions->push_back(NodeJoined{
      {request.session, node.hello.name, request.address, {}}, request.device, request.devices});
  if (joined_count() == facts_.nodes) make_view(actions);
  return {};
}

void Coordinator::make_view(CoordinatorActions* actions) {
  View view;
  view.number = view_.number + 1;
  view.first_step = steps_done_;
  for (const auto& [session, node] : nodes_) {
    if (!node.joined || node.left) continue;
    view.members.push_back({session, node.hello.name, node.join.address, {}});
  }
  std::vector<PartitionRange> ranges;
  const int members = static_cast<int>(view.members.size());
  for (int i = 0; i < members; ++i) {
    view.members[i].partitions = range_of_part({0, facts_.partitions}, members, i);
    ranges.push_back(view.members[i].partitions);
  }
  view.slice_owners = assign_slice_owners(facts_.slices, ranges);
  view_ = view;
  phase_ = Phase::training;
  actions->push_back(ViewMade{view});
  send_to_all(ViewEvent{view}, actions);
}

Result<Coordinator::Node*> Coordinator::member(SessionId session) {
  const auto found = nodes_.find(session);
  if (found == nodes_.end() || found->second.left) {
    return refused_error("unknown session: this node is not a member of the job");
  }
  return &found->second;
}

Status Coordinator::renew(SessionId session, int64_t now_ms) {
  LOCKSTEP_ASSIGN(Node * node, member(session));
  node->lease_ends_ms = now_ms + facts_.lease_ms;
  return {};
}

Status Coordinator::step_applied(const StepReport& report, CoordinatorActions* actions) {
  LOCKSTEP_ASSIGN(Node * node, member(report.session));
  if (phase_ != Phase::training || report.step != node->steps) {
    if (report.step < node->steps) return {};  // said twice
    return Error{
        fmt::format("{} reports step {} out of order", node_text(report.session), report.step)};
  }
  node->steps = report.step + 1;
  actions->push_back(SamplesConsumed{report.step, report.partitions});
  if (report.step != steps_done_) return {};
  ++steps_done_;
  actions->push_back(
      StepDone{report.step, facts_.rows_of_step(report.step), report.loss_sum, report.correct});
  return {};
}

Status Coordinator::add_validation(const EpochReport& report) {
  for (const ValidationPart& part : report.validation) {
    if (part.partition < 0 || part.partition >= facts_.partitions || part.batch < 0) {
      return Error{fmt::format("{} reports validation of partition {}, which does not exist",
                               node_text(report.session), part.partition)};
    }
    validation_[{part.batch, part.partition}] = part;
  }
  return {};
}

EpochDone Coordinator::summarize_epoch(const EpochReport& report) const {
  EpochDone done;
  done.epoch = report.epoch;
  done.loss = report.loss_sum / static_cast<double>(report.rows);
  done.accuracy = static_cast<double>(report.correct) / static_cast<double>(report.rows);
  int64_t rows = 0;
  int64_t correct = 0;
  double loss_sum = 0;
  for (auto part = validation_.begin(); part != validation_.end();) {
    const int64_t batch = part->first.first;
    std::vector<float> losses(static_cast<size_t>(facts_.partitions));
    std::vector<bool> present(losses.size());
    for (; part != validation_.end() && part->first.first == batch; ++part) {
      losses[part->first.second] = part->second.loss_sum;
      present[part->first.second] = part->second.rows > 0;
      rows += part->second.rows;
      correct += part->second.correct;
    }
    float batch_loss = 0;
    if (tree_sum(losses, present, &batch_loss)) loss_sum += static_cast<double>(batch_loss);
  }
  done.has_validation = rows > 0;
  if (rows > 0) {
    done.validation_loss = loss_sum / static_cast<double>(rows);
    done.validation_accuracy = static_cast<double>(correct) / static_cast<double>(rows);
  }
  return done;
}

Status Coordinator::epoch_measured(const EpochReport& report, CoordinatorActions* actions) {
  LOCKSTEP_ASSIGN(Node * node, member(report.session));
  if (phase_ != Phase::training || report.epoch != node->epochs || report.rows <= 0) {
    if (report.epoch < node->epochs) return {};
    return Error{
        fmt::format("{} reports epoch {} out of order", node_text(report.session), report.epoch)};
  }
  LOCKSTEP_RETURN_IF_ERROR(add_validation(report));
  ++node->epochs;
  const bool all_measured = std::all_of(nodes_.begin(), nodes_.end(), [&](const auto& entry) {
    return !entry.second.joined || entry.second.left || entry.second.epochs > report.epoch;
  });
  if (!all_measured) return {};
  actions->push_back(summarize_epoch(report));
  validation_.clear();
  ++epochs_done_;
  const bool go_on = epochs_done_ < facts_.epochs;
  if (!go_on) phase_ = Phase::finishing;
  send_to_all(EpochDecision{report.epoch, go_on}, actions);
  return {};
}

Status Coordinator::finished(const FinalReport& report, CoordinatorActions* actions) {
  LOCKSTEP_ASSIGN(Node * node, member(report.session));
  if (phase_ != Phase::finishing) return {};
  node->weights_sha256 = report.weights_sha256;
  SessionId first = 0;
  for (const auto& [session, other] : nodes_) {
    if (!other.joined || other.left) continue;
    if (other.weights_sha256.empty()) return {};
    if (first == 0) first = session;
    if (other.weights_sha256 != nodes_.at(first).weights_sha256) {
      fail(ErrorKind::halted,
           fmt::format("the final weights of {} ({}) and {} ({}) differ: silent corruption",
                       node_text(first), nodes_.at(first).weights_sha256, node_text(session),
                       other.weights_sha256),
           actions);
      return {};
    }
  }
  phase_ = Phase::uploading;
  actions->push_back(SendEvent{first, UploadEvent{}});
  return {};
}

Status Coordinator::uploaded(SessionId session, const std::string& sha256,
                             CoordinatorActions* actions) {
  LOCKSTEP_ASSIGN(Node * node, member(session));
  if (phase_ != Phase::uploading) return {};
  if (sha256 != node->weights_sha256) {
    fail(ErrorKind::halted,
         fmt::format("the weights that {} sent hash to {}, it computed {}", node_text(session),
                     sha256, node->weights_sha256),
         actions);
    return {};
  }
  phase_ = Phase::completed;
  actions->push_back(JobCompleted{});
  send_to_all(StopEvent{ErrorKind::failed, true, "the job is done"}, actions);
  return {};
}

Status Coordinator::fault(const FaultReport& report, CoordinatorActions* actions) {
  LOCKSTEP_ASSIGN(Node * node, member(report.session));
  if (ended()) return {};
  if (report.accused != 0) {
    // The lease or the connection of the accused says whether it is dead; both come soon.
    const auto accused = nodes_.find(report.accused);
    if (accused == nodes_.end() || accused->second.left) return {};
    accused->second.lease_ends_ms = std::min(accused->second.lease_ends_ms, node->lease_ends_ms);
    return {};
  }
  node_died(report.session, report.what, actions);
  return {};
}

Status Coordinator::leave(SessionId session, CoordinatorActions* actions) {
  LOCKSTEP_ASSIGN(Node * node, member(session));
  node->left = true;
  actions->push_back(NodeLeft{session, node->steps, ended() ? "done" : "left"});
  if (!ended() && node->joined) {
    fail(ErrorKind::failed,
         fmt::format("{} left the job at step {}", node_text(session), node->steps), actions);
  }
  return {};
}

void Coordinator::connection_lost(SessionId session, CoordinatorActions* actions) {
  node_died(session, "its connection broke: the process died", actions);
}

void Coordinator::node_died(SessionId session, const std::string& how,
                            CoordinatorActions* actions) {
  const auto found = nodes_.find(session);
  if (found == nodes_.end() || found->second.left) return;
  Node& node = found->second;
  node.left = true;
  if (!node.joined) return;
  actions->push_back(NodeLeft{session, node.steps, how});
  if (phase_ == Phase::gathering) {
    node.joined = false;  // its place is free again
    return;
  }
  if (ended()) return;
  fail(ErrorKind::failed,
       fmt::format("{} failed at step {}: {}", node_text(session), node.steps, how), actions);
}

void Coordinator::fail(ErrorKind kind, const std::string& reason, CoordinatorActions* actions) {
  if (ended()) return;
  phase_ = Phase::failed;
  failure_ = reason;
  actions->push_back(JobFailed{kind, reason});
  send_to_all(StopEvent{kind, false, reason}, actions);
}

void Coordinator::stop(ErrorKind kind, const std::string& reason, CoordinatorActions* actions) {
  fail(kind, reason, actions);
}

void Coordinator::tick(int64_t now_ms, CoordinatorActions* actions) {
  for (const auto& [session, node] : std::map<SessionId, Node>(nodes_)) {
    if (node.left || now_ms < node.lease_ends_ms) continue;
    node_died(session, fmt::format("no sign of life for {} ms", facts_.lease_ms), actions);
  }
}

void Coordinator::send_to_all(const NodeEvent& event, CoordinatorActions* actions) {
  for (const auto& [session, node] : nodes_) {
    if (!node.left) actions->push_back(SendEvent{session, event});
  }
}

int Coordinator::joined_count() const {
  return static_cast<int>(std::count_if(nodes_.begin(), nodes_.end(), [](const auto& entry) {
    return entry.second.joined && !entry.second.left;
  }));
}

std::string Coordinator::node_text(SessionId session) const {
  const auto found = nodes_.find(session);
  return fmt::format("node '{}' (session {})",
                     found == nodes_.end() ? "?" : found->second.hello.name, session);
}

}  // namespace lockstep
