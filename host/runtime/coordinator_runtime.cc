#include "host/runtime/coordinator_runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "host/runtime/clock.h"

namespace lockstep {
namespace {

constexpr int kTickMs = 20;

Error not_started() { return {"the job is still being prepared; try again"}; }

}  // namespace

CoordinatorRuntime::CoordinatorRuntime(std::function<void(const CoordinatorAction&)> observer,
                                       std::function<nlohmann::json()> describe)
    : observer_(std::move(observer)), describe_(std::move(describe)) {}

void CoordinatorRuntime::start(ClusterFacts facts, Journal& journal, int64_t state_bytes,
                               bool may_return) {
  const std::lock_guard lock(mutex_);
  journal_ = &journal;
  state_bytes_ = state_bytes;
  job_ = facts.job;
  machine_.emplace(std::move(facts), journal.term(), journal.recovered(), may_return,
                   monotonic_ms());
  writer_ = std::thread([this] { write_journal(); });
}

CoordinatorRuntime::~CoordinatorRuntime() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    changed_.notify_all();
    to_write_.notify_all();
  }
  if (timer_.joinable()) timer_.join();
  if (writer_.joinable()) writer_.join();
  server_.reset();
}

Status CoordinatorRuntime::listen(Network& network, const Address& address) {
  LOCKSTEP_ASSIGN(server_, network.serve_control(address, *this));
  timer_ = std::thread([this] { keep_time(); });
  return {};
}

bool CoordinatorRuntime::wait_for_end(int timeout_ms) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [this] { return ended_; });
}

CoordinatorResult CoordinatorRuntime::finish(int linger_ms) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::milliseconds(linger_ms), [this] {
    return std::none_of(present_.begin(), present_.end(),
                        [](const auto& entry) { return entry.second; });
  });
  observed_to_the_end_ = true;
  CoordinatorResult result{outcome_, ""};
  if (!outcome_.ok() || !final_state_) return result;
  auto state = journal_->read_state(final_state_->object);
  if (!state.ok()) return {state.error(), ""};
  result.state = std::move(state).value();
  return result;
}

void CoordinatorRuntime::stop(ErrorKind kind, const std::string& reason) {
  static_cast<void>(with_machine([&](Coordinator& machine, CoordinatorActions* actions) {
    machine.stop(kind, reason, actions);
    return Status{};
  }));
}

void CoordinatorRuntime::interrupt(const std::string& reason) {
  static_cast<void>(with_machine([&](Coordinator& machine, CoordinatorActions* actions) {
    machine.interrupt(reason, actions);
    return Status{};
  }));
}

void CoordinatorRuntime::wake() {
  static_cast<void>(with_machine([](Coordinator& machine, CoordinatorActions* actions) {
    machine.tick(monotonic_ms(), actions);
    return Status{};
  }));
}

Status CoordinatorRuntime::with_machine(
    const std::function<Status(Coordinator&, CoordinatorActions*)>& call) {
  const std::lock_guard lock(mutex_);
  if (!machine_) return not_started();
  CoordinatorActions actions;
  const Status status = call(*machine_, &actions);
  if (!actions.empty()) take_up(std::move(actions));
  return status;
}

// What stands behind a record waits for it.
void CoordinatorRuntime::take_up(CoordinatorActions actions) {
  bool wake = false;  // step reports come by the hundred a second and wake nobody
  for (CoordinatorAction& action : actions) {
    if (auto* commit = std::get_if<CommitCheckpoint>(&action)) {
      commits_.push_back(std::move(*commit));
      to_write_.notify_one();
    } else if (!waiting_.empty() || std::holds_alternative<AppendRecord>(action)) {
      waiting_.push_back(std::move(action));
      to_write_.notify_one();
    } else {
      carry_out(action);
      wake = wake || !std::holds_alternative<StepDone>(action);
    }
  }
  if (wake) changed_.notify_all();
}

void CoordinatorRuntime::carry_out(const CoordinatorAction& action) {
  if (const auto* send = std::get_if<SendEvent>(&action)) {
    mailboxes_[send->session].events.push_back(send->event);
    return;
  }
  if (const auto* joined = std::get_if<NodeJoined>(&action)) {
    present_[joined->member.session] = true;
  } else if (const auto* left = std::get_if<NodeLeft>(&action)) {
    present_[left->session] = false;
    uploads_.erase(left->session);
  } else if (const auto* failed = std::get_if<JobFailed>(&action)) {
    outcome_ = Error{failed->reason, failed->kind};
    ended_ = true;
  } else if (const auto* completed = std::get_if<JobCompleted>(&action)) {
    final_state_ = completed->state;
    ended_ = true;
  }
  if (!observed_to_the_end_) observer_(action);
}

void CoordinatorRuntime::write_journal() {
  std::unique_lock lock(mutex_);
  while (true) {
    to_write_.wait(lock, [this] { return closing_ || !waiting_.empty() || !commits_.empty(); });
    if (!waiting_.empty()) {
      write_record(lock);
    } else if (!commits_.empty()) {
      write_checkpoint(lock);
    } else {
      return;
    }
  }
}

// The first of waiting_ and all that it held up.
void CoordinatorRuntime::write_record(std::unique_lock<std::mutex>& lock) {
  const JobRecord record = std::get<AppendRecord>(waiting_.front()).record;
  lock.unlock();
  const Status written = journal_->append(record);
  lock.lock();
  if (!written.ok()) disk_failed(written.error());
  if (disk_failed_) return;
  waiting_.pop_front();
  while (!waiting_.empty() && !std::holds_alternative<AppendRecord>(waiting_.front())) {
    carry_out(waiting_.front());
    waiting_.pop_front();
  }
  changed_.notify_all();
}

void CoordinatorRuntime::write_checkpoint(std::unique_lock<std::mutex>& lock) {
  const CommitCheckpoint commit = std::move(commits_.front());
  commits_.pop_front();
  lock.unlock();
  const auto begin = std::chrono::steady_clock::now();
  const auto record = journal_->commit(commit);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  lock.lock();
  checkpoint_seconds_ = took.count();
  if (!record.ok()) disk_failed(record.error());
  if (disk_failed_) return;
  CoordinatorActions actions;
  machine_->checkpoint_durable(*record, &actions);
  take_up(std::move(actions));
}

// What could not be made durable never happens; the job halts where it can be resumed.
void CoordinatorRuntime::disk_failed(const Error& error) {
  disk_failed_ = true;
  waiting_.clear();
  commits_.clear();
  CoordinatorActions actions;
  machine_->stop(ErrorKind::halted,
                 fmt::format("{}; free or replace the disk and go on with --resume", error.message),
                 &actions);
  for (const CoordinatorAction& action : actions) carry_out(action);
  changed_.notify_all();
}

void CoordinatorRuntime::keep_time() {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    changed_.wait_for(lock, std::chrono::milliseconds(kTickMs), [this] { return closing_; });
    if (!machine_) continue;
    CoordinatorActions actions;
    machine_->tick(monotonic_ms(), &actions);
    if (!actions.empty()) take_up(std::move(actions));
  }
}

Result<Welcome> CoordinatorRuntime::hello(const Hello& hello) {
  const std::lock_guard lock(mutex_);
  if (!machine_) return not_started();
  return machine_->hello(hello, monotonic_ms());
}

Status CoordinatorRuntime::join(const JoinRequest& request, const std::string& peer_host) {
  JoinRequest seen = request;
  if (!seen.address.empty() && seen.address[0] == ':') seen.address = peer_host + seen.address;
  return with_machine([&](Coordinator& machine, CoordinatorActions* actions) {
    return machine.join(seen, monotonic_ms(), actions);
  });
}

Result<PollReply> CoordinatorRuntime::poll(const PollRequest& request) {
  std::unique_lock lock(mutex_);
  if (!machine_) return not_started();
  const auto renewed = machine_->renew(request.session, monotonic_ms());
  if (!renewed.ok() && !mailboxes_.contains(request.session)) return renewed.error();
  Mailbox& mailbox = mailboxes_[request.session];
  const bool same_term = request.term == machine_->term();
  while (same_term && !mailbox.events.empty() && mailbox.first < request.received) {
    mailbox.events.pop_front();
    ++mailbox.first;
  }
  PollReply reply;
  reply.term = machine_->term();
  if (!renewed.ok() && mailbox.events.empty()) return renewed.error();
  reply.attach = renewed.ok() && *renewed;
  if (!same_term || reply.attach) return reply;
  changed_.wait_for(lock, std::chrono::milliseconds(kLongPollMs),
                    [&] { return closing_ || !mailbox.events.empty(); });
  reply.events.assign(mailbox.events.begin(), mailbox.events.end());
  return reply;
}

Status CoordinatorRuntime::attach(SessionId session, const Standing& standing) {
  return with_machine([&](Coordinator& machine, CoordinatorActions* actions) {
    Status attached = machine.attach(session, standing, monotonic_ms(), actions);
    if (attached.ok()) present_[session] = true;
    return attached;
  });
}

Status CoordinatorRuntime::report_held(const HeldReport& report) {
  return with_machine([&](Coordinator& machine, CoordinatorActions* actions) {
    return machine.held(report, monotonic_ms(), actions);
  });
}

Status CoordinatorRuntime::report_step(const StepReport& report) {
  return with_machine([&](Coordinator& machine, CoordinatorActions* actions) {
    return machine.step_applied(report, monotonic_ms(), actions);
  });
}

Status CoordinatorRuntime::report_epoch(const EpochReport& report) {
  return with_machine([&](Coordinator& machine, CoordinatorActions* actions) {
    return machine.epoch_measured(report, actions);
  });
}

Status CoordinatorRuntime::report_fault(const FaultReport& report) {
  return with_machine([&](Coordinator& machine, CoordinatorActions* actions) {
    return machine.fault(report, monotonic_ms(), actions);
  });
}

Status CoordinatorRuntime::upload(const StatePart& part) {
  std::string bytes;
  {
    const std::lock_guard lock(mutex_);
    if (!machine_) return not_started();
    LOCKSTEP_RETURN_IF_ERROR(machine_->renew(part.session, monotonic_ms()));
    Upload& upload = uploads_[part.session];
    if (part.offset == 0) upload = {part.step, ""};
    const auto end = part.offset + static_cast<int64_t>(part.bytes.size());
    if (part.total != state_bytes_ || part.step != upload.step || end > part.total ||
        part.offset != static_cast<int64_t>(upload.bytes.size())) {
      uploads_.erase(part.session);
      return Error{
          fmt::format("bytes {}..{} of {} of state {}, which do not follow what came "
                      "before, or are not of this job's {} bytes",
                      part.offset, end, part.total, part.step, state_bytes_)};
    }
    received_bytes_ += static_cast<int64_t>(part.bytes.size());
    if (part.offset == 0) upload.bytes.reserve(static_cast<size_t>(part.total));
    upload.bytes += part.bytes;
    if (end < part.total) return {};
    bytes = std::move(upload.bytes);
    uploads_.erase(part.session);
  }
  const auto state = journal_->store_state(bytes);
  if (!state.ok()) {
    const std::lock_guard lock(mutex_);
    if (state.error().kind == ErrorKind::halted) disk_failed(state.error());
    return state.error();
  }
  return with_machine([&](Coordinator& machine, CoordinatorActions* actions) {
    return machine.snapshot_stored(part.session, *state, actions);
  });
}

Result<std::string> CoordinatorRuntime::fetch(SessionId session, const std::string& object,
                                              int64_t offset) {
  {
    const std::lock_guard lock(mutex_);
    if (!machine_) return not_started();
    LOCKSTEP_RETURN_IF_ERROR(machine_->renew(session, monotonic_ms()));
    if (object.empty() || object != machine_->view().restore.object) {
      return Error{fmt::format("state {} is not what this view begins with", object)};
    }
  }
  auto part = part_of_state(object, offset);
  if (!part.ok()) {  // nobody can go on from it: an older one is found at the next start
    const std::lock_guard lock(mutex_);
    disk_failed(part.error());
  }
  return part;
}

Result<NewestState> CoordinatorRuntime::newest_state() {
  const std::lock_guard lock(mutex_);
  if (!machine_) return not_started();
  if (machine_->checkpoints().empty()) {
    return Error{"no state is durable yet: ask again when the first checkpoint is written"};
  }
  const StateRef& state = machine_->checkpoints().back().state;
  return NewestState{state.step, state.object, job_, machine_->learning_rate_at(state.step)};
}

Result<std::string> CoordinatorRuntime::read_state(const std::string& object, int64_t offset) {
  {
    const std::lock_guard lock(mutex_);
    if (!machine_) return not_started();
    const auto& checkpoints = machine_->checkpoints();
    const bool is_kept =
        std::any_of(checkpoints.begin(), checkpoints.end(),
                    [&](const CheckpointRecord& each) { return each.state.object == object; });
    if (!is_kept) return Error{"that state is not kept any more: ask for the newest again"};
  }
  return part_of_state(object, offset);
}

Result<std::string> CoordinatorRuntime::part_of_state(const std::string& object, int64_t offset) {
  std::shared_ptr<const std::string> bytes;
  {
    const std::lock_guard lock(mutex_);
    if (fetched_.first == object) bytes = fetched_.second;
  }
  if (bytes == nullptr) {
    LOCKSTEP_ASSIGN(std::string read, journal_->read_state(object));
    bytes = std::make_shared<const std::string>(std::move(read));
    const std::lock_guard lock(mutex_);
    fetched_ = {object, bytes};
  }
  const auto size = static_cast<int64_t>(bytes->size());
  if (offset >= size) {
    const std::lock_guard lock(mutex_);
    fetched_ = {};
    return std::string();
  }
  std::string part = bytes->substr(static_cast<size_t>(offset), kFetchBytes);
  const std::lock_guard lock(mutex_);
  sent_bytes_ += static_cast<int64_t>(part.size());
  return part;
}

Status CoordinatorRuntime::ask_to_leave(SessionId session) {
  return with_machine([&](Coordinator& machine, CoordinatorActions* actions) {
    return machine.ask_to_leave(session, actions);
  });
}

Status CoordinatorRuntime::leave(SessionId session) {
  return with_machine([&](Coordinator& machine, CoordinatorActions* actions) {
    present_[session] = false;
    changed_.notify_all();
    return machine.leave(session, monotonic_ms(), actions);
  });
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
  static constexpr const char* kPhases[] = {"gathering", "changing",  "training",
                                            "finishing", "completed", "failed"};
  const auto& checkpoints = machine_->checkpoints();
  nlohmann::json status = describe_ ? describe_() : nlohmann::json::object();
  status.update({{"phase", kPhases[static_cast<int>(machine_->phase())]},
                 {"term", machine_->term()},
                 {"view", machine_->view().number},
                 {"step", machine_->steps_done()},
                 {"checkpoint", checkpoints.empty() ? 0 : checkpoints.back().state.step},
                 {"checkpoint_seconds", checkpoint_seconds_},
                 {"state_bytes", {{"received", received_bytes_}, {"sent", sent_bytes_}}},
                 {"members", members}});
  return status.dump();
}

void CoordinatorRuntime::connection_lost(SessionId session) {
  const std::lock_guard lock(mutex_);
  if (machine_) machine_->connection_lost(session, monotonic_ms());
}

}  // namespace lockstep
