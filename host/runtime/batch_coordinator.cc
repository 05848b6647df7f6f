#include "host/runtime/batch_coordinator.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>

#include "host/runtime/clock.h"

namespace lockstep {
namespace {

constexpr int kQueueTickMs = 20;

}  // namespace

BatchCoordinator::BatchCoordinator(BatchFacts facts, const std::vector<float>& weights,
                                   std::string weights_sha256, ResultSink& sink,
                                   std::function<void(const BatchEvent&)> observer)
    : observer_(std::move(observer)),
      weights_(reinterpret_cast<const char*>(weights.data()), weights.size() * sizeof(float)),
      weights_sha256_(std::move(weights_sha256)),
      sink_(sink),
      queue_(std::move(facts)) {}

BatchCoordinator::~BatchCoordinator() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    changed_.notify_all();
  }
  if (timer_.joinable()) timer_.join();
  server_.reset();
}

Status BatchCoordinator::listen(Network& network, const Address& address) {
  LOCKSTEP_ASSIGN(server_, network.serve_control(address, *this));
  timer_ = std::thread([this] { keep_time(); });
  return {};
}

bool BatchCoordinator::wait_for_end(int timeout_ms) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                           [this] { return outcome_.has_value(); });
}

Status BatchCoordinator::finish(int linger_ms) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::milliseconds(linger_ms),
                    [this] { return queue_.workers().empty(); });
  return outcome_.value_or(Status{});
}

void BatchCoordinator::stop(ErrorKind kind, const std::string& reason) {
  const std::lock_guard lock(mutex_);
  end(Error{reason, kind});
}

void BatchCoordinator::end(Status outcome) {
  if (!outcome_) outcome_ = std::move(outcome);
  changed_.notify_all();
}

void BatchCoordinator::tell_events() {
  const std::vector<BatchEvent> events = queue_.take_events();
  if (events.empty()) return;
  for (const BatchEvent& event : events) observer_(event);
  if (queue_.done()) end({});
  changed_.notify_all();
}

void BatchCoordinator::keep_time() {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    changed_.wait_for(lock, std::chrono::milliseconds(kQueueTickMs), [this] { return closing_; });
    queue_.tick(monotonic_ms());
    tell_events();
  }
}

Result<Welcome> BatchCoordinator::hello(const Hello& hello) {
  const std::lock_guard lock(mutex_);
  if (outcome_) return refused_error("refused to join: the work is over");
  return queue_.hello(hello, monotonic_ms());
}

Status BatchCoordinator::join(const JoinRequest& request, const std::string& peer_host) {
  JoinRequest seen = request;
  seen.address = peer_host;  // nodes do not call each other
  const std::lock_guard lock(mutex_);
  const Status joined = queue_.join(seen, monotonic_ms());
  tell_events();
  return joined;
}

// What a node that polls is told, if anything.
std::optional<NodeEvent> BatchCoordinator::stop_event() const {
  if (!outcome_) return std::nullopt;
  if (outcome_->ok()) return StopEvent{ErrorKind::failed, true, "done"};
  return StopEvent{outcome_->error().kind, false, outcome_->error().message};
}

Result<PollReply> BatchCoordinator::poll(const PollRequest& request) {
  std::unique_lock lock(mutex_);
  PollReply reply;
  reply.term = request.term;
  if (released_.contains(request.session)) {
    reply.events = {StopEvent{ErrorKind::failed, true, "left"}};
    return reply;
  }
  LOCKSTEP_RETURN_IF_ERROR(queue_.renew(request.session, monotonic_ms()));
  changed_.wait_for(lock, std::chrono::milliseconds(kLongPollMs),
                    [this] { return closing_ || outcome_; });
  if (const auto event = stop_event()) reply.events = {*event};
  return reply;
}

Status BatchCoordinator::report_fault(const FaultReport& report) {
  const std::lock_guard lock(mutex_);
  LOCKSTEP_RETURN_IF_ERROR(queue_.renew(report.session, monotonic_ms()));
  if (report.accused == 0) queue_.leave(report.session, report.what);
  tell_events();
  return {};
}

Result<std::string> BatchCoordinator::fetch(SessionId session, const std::string& object,
                                            int64_t offset) {
  {
    const std::lock_guard lock(mutex_);
    LOCKSTEP_RETURN_IF_ERROR(queue_.renew(session, monotonic_ms()));
  }
  if (object != weights_sha256_) return Error{"those are not the weights of this work"};
  if (offset >= std::ssize(weights_)) return std::string();
  return std::string(weights_.substr(static_cast<size_t>(offset), kFetchBytes));
}

// Nothing is handed over: others compute its batches.
Status BatchCoordinator::ask_to_leave(SessionId session) {
  const std::lock_guard lock(mutex_);
  LOCKSTEP_RETURN_IF_ERROR(queue_.renew(session, monotonic_ms()));
  released_.insert(session);
  queue_.leave(session, "it left");
  tell_events();
  return {};
}

Status BatchCoordinator::leave(SessionId session) {
  const std::lock_guard lock(mutex_);
  queue_.leave(session, outcome_ ? "done" : "it left");
  tell_events();
  return {};
}

std::string BatchCoordinator::status() {
  const std::lock_guard lock(mutex_);
  nlohmann::json members = nlohmann::json::array();
  for (const BatchQueue::Worker& worker : queue_.workers()) {
    members.push_back({{"session", worker.session},
                       {"name", worker.name},
                       {"address", worker.address},
                       {"batches", {worker.batches.begin, worker.batches.end}}});
  }
  const auto task = nlohmann::json::parse(queue_.facts().task, nullptr, false);
  const std::string phase = !outcome_ ? "running" : outcome_->ok() ? "completed" : "failed";
  return nlohmann::json{{"task", task.is_object() ? task.value("task", "") : ""},
                        {"phase", phase},
                        {"batches", queue_.facts().batches},
                        {"batches_done", queue_.batches_done()},
                        {"members", members}}
      .dump();
}

void BatchCoordinator::connection_lost(SessionId session) {
  const std::lock_guard lock(mutex_);
  queue_.connection_lost(session, monotonic_ms());
}

Result<WorkReply> BatchCoordinator::next_batches(const WorkRequest& request) {
  std::unique_lock lock(mutex_);
  const WorkReply over{{}, true};
  if (released_.contains(request.session)) return over;
  if (outcome_ && !outcome_->ok()) return WorkReply{};  // the next poll says why
  auto reply = queue_.next(request, monotonic_ms());
  tell_events();
  if (!reply.ok() || !reply->batches.empty() || reply->over) return reply;
  changed_.wait_for(lock, std::chrono::milliseconds(kLongPollMs), [&] {
    if (closing_ || outcome_) return true;
    reply = released_.contains(request.session)
                ? over
                : queue_.next({request.session, {}}, monotonic_ms());
    if (reply.ok() && reply->over) return true;
    return !reply.ok() || !reply->batches.empty();
  });
  return reply;
}

Status BatchCoordinator::deliver(const ResultPart& part) {
  {
    const std::lock_guard lock(mutex_);
    if (released_.contains(part.session)) return {};  // others compute it
    LOCKSTEP_RETURN_IF_ERROR(queue_.check(part, monotonic_ms()));
  }
  // A slow disk holds up nobody else. Who is given up meanwhile has written the same bytes as
  // whoever computes its batches again.
  const Status written = sink_.write(part.array, part.offset, part.bytes);
  const std::lock_guard lock(mutex_);
  if (!written.ok()) {
    end(written);
    return written;
  }
  queue_.accepted(part);
  return {};
}

}  // namespace lockstep
