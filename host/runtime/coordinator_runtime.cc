#include "host/runtime/coordinator_runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "host/core/digest.h"

namespace lockstep {
namespace {

constexpr int kTickMs = 100;

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Error not_started() { return {"the job is still being prepared; try again"}; }

}  // namespace

CoordinatorRuntime::CoordinatorRuntime(std::function<void(const CoordinatorAction&)> observer)
    : observer_(std::move(observer)) {}

void CoordinatorRuntime::start(ClusterFacts facts, int64_t weight_bytes) {
  const std::lock_guard lock(mutex_);
  machine_.emplace(std::move(facts), 1);
  weight_bytes_ = weight_bytes;
}

CoordinatorRuntime::~CoordinatorRuntime() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    changed_.notify_all();
  }
  if (timer_.joinable()) timer_.join();
  server_.reset();
}

Status CoordinatorRuntime::listen(Network& network, const Address& address) {
  LOCKSTEP_ASSIGN(server_, network.serve_control(address, *this));
  timer_ = std::thread([this] { keep_time(); });
  return {};
}

bool CoordinatorRuntime::wait_for_end(int timeout_ms) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                           [this] { return machine_ && machine_->ended(); });
}

CoordinatorResult CoordinatorRuntime::finish(int linger_ms) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::milliseconds(linger_ms), [this] {
    return std::none_of(present_.begin(), present_.end(),
                        [](const auto& entry) { return entry.second; });
  });
  observed_to_the_end_ = true;
  return {outcome_, std::move(weights_)};
}

void CoordinatorRuntime::stop(ErrorKind kind, const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (!machine_) return;
  CoordinatorActions actions;
  machine_->stop(kind, reason, &actions);
  carry_out(actions);
}

void CoordinatorRuntime::carry_out(const CoordinatorActions& actions) {
  bool wake = false;  // step reports come by the hundred a second and wake nobody
  for (const CoordinatorAction& action : actions) {
    if (const auto* send = std::get_if<SendEvent>(&action)) {
      events_[send->session].push_back(send->event);
      wake = true;
      continue;
    }
    if (const auto* joined = std::get_if<NodeJoined>(&action)) {
      present_[joined->member.session] = true;
    }
    if (const auto* left = std::get_if<NodeLeft>(&action)) {
      present_[left->session] = false;
      wake = true;
    }
    if (const auto* failed = std::get_if<JobFailed>(&action)) {
      outcome_ = Error{failed->reason, failed->kind};
    }
    if (!observed_to_the_end_) observer_(action);
  }
  if (wake) changed_.notify_all();
}

void CoordinatorRuntime::keep_time() {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    changed_.wait_for(lock, std::chrono::milliseconds(kTickMs), [this] { return closing_; });
    if (!machine_) continue;
    CoordinatorActions actions;
    machine_->tick(now_ms(), &actions);
    if (!actions.empty()) carry_out(actions);
  }
}

Result<Welcome> CoordinatorRuntime::hello(const Hello& hello) {
  const std::lock_guard lock(mutex_);
  if (!machine_) return not_started();
  return machine_->hello(hello, now_ms());
}

Status CoordinatorRuntime::join(const JoinRequest& request, const std::string& peer_host) {
  const std::lock_guard lock(mutex_);
  if (!machine_) return not_started();
  JoinRequest seen = request;
  if (!seen.address.empty() && seen.address[0] == ':') seen.address = peer_host + seen.address;
  CoordinatorActions actions;
  const Status status = machine_->join(seen, now_ms(), &actions);
  carry_out(actions);
  return status;
}

Result<std::vector<NodeEvent>> CoordinatorRuntime::poll(SessionId session) {
  std::unique_lock lock(mutex_);
  if (!machine_) return not_started();
  LOCKSTEP_RETURN_IF_ERROR(machine_->renew(session, now_ms()));
  changed_.wait_for(lock, std::chrono::milliseconds(kLongPollMs),
                    [&] { return closing_ || !events_[session].empty(); });
  std::deque<NodeEvent>& waiting = events_[session];
  std::vector<NodeEvent> events(waiting.begin(), waiting.end());
  waiting.clear();
  return events;
}

Status CoordinatorRuntime::report_step(const StepReport& report) {
  const std::lock_guard lock(mutex_);
  if (!machine_) return not_started();
  CoordinatorActions actions;
  const Status status = machine_->step_applied(report, &actions);
  if (!actions.empty()) carry_out(actions);
  return status;
}

Status CoordinatorRuntime::report_epoch(const EpochReport& report) {
  const std::lock_guard lock(mutex_);
  if (!machine_) return not_started();
  CoordinatorActions actions;
  const Status status = machine_->epoch_measured(report, &actions);
  carry_out(actions);
  return status;
}

Status CoordinatorRuntime::report_final(const FinalReport& report) {
  const std::lock_guard lock(mutex_);
  if (!machine_) return not_started();
  CoordinatorActions actions;
  const Status status = machine_->finished(report, &actions);
  carry_out(actions);
  return status;
}

Status CoordinatorRuntime::report_fault(const FaultReport& report) {
  const std::lock_guard lock(mutex_);
  if (!machine_) return not_started();
  CoordinatorActions actions;
  const Status status = machine_->fault(report, &actions);
  carry_out(actions);
  return status;
}

Status CoordinatorRuntime::upload(SessionId session, int64_t offset, const std::string& bytes) {
  const std::lock_guard lock(mutex_);
  if (!machine_) return not_started();
  if (machine_->phase() != Coordinator::Phase::uploading) {
    return Error{"the coordinator did not ask for weights"};
  }
  const int64_t end = offset + static_cast<int64_t>(bytes.size());
  if (offset < 0 || offset > static_cast<int64_t>(weights_.size()) || end > weight_bytes_) {
    return Error{fmt::format("weights at {}..{}, expected from {} up to {}", offset, end,
                             weights_.size(), weight_bytes_)};
  }
  weights_.resize(static_cast<size_t>(offset));
  weights_ += bytes;
  if (end < weight_bytes_) return {};
  CoordinatorActions actions;
  const Status status = machine_->uploaded(session, sha256_hex(weights_), &actions);
  carry_out(actions);
  return status;
}

Status CoordinatorRuntime::leave(SessionId session) {
  const std::lock_guard lock(mutex_);
  if (!machine_) return not_started();
  CoordinatorActions actions;
  const Status status = machine_->leave(session, &actions);
  carry_out(actions);
  return status;
}

std::string CoordinatorRuntime::status() {
  const std::lock_guard lock(mutex_);
  if (!machine_) return R"({"phase":"preparing"})";
  nlohmann::json members = nlohmann::json::array();
  for (const Member& member : machine_->view().members) {
    members.push_back({{"session", member.session},
                       {"name", member.name},
                       {"address", member.address},
                       {"partitions", {member.partitions.begin, member.partitions.end}}});
  }
  static constexpr const char* kPhases[] = {"gathering", "training",  "finishing",
                                            "uploading", "completed", "failed"};
  return nlohmann::json{{"phase", kPhases[static_cast<int>(machine_->phase())]},
                        {"term", machine_->term()},
                        {"view", machine_->view().number},
                        {"step", machine_->steps_done()},
                        {"members", members}}
      .dump();
}

void CoordinatorRuntime::connection_lost(SessionId session) {
  const std::lock_guard lock(mutex_);
  if (!machine_) return;
  CoordinatorActions actions;
  machine_->connection_lost(session, &actions);
  if (!actions.empty()) carry_out(actions);
}

}  // namespace lockstep
