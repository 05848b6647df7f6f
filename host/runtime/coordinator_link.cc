#include "host/runtime/coordinator_link.h"

#include <fmt/format.h>

#include <chrono>

#include "host/runtime/clock.h"

namespace lockstep {
namespace {

constexpr int kFirstRetryMs = 20;
constexpr int kLongestRetryMs = 200;
constexpr int kAwayMs = 1000;  // without an answer: the coordinator is away

}  // namespace

CoordinatorLink::CoordinatorLink(Network& network, CoordinatorLinkOptions options)
    : network_(network),
      options_(std::move(options)),
      term_(options_.term),
      answered_ms_(monotonic_ms()) {
  poller_ = std::thread([this] { poll_loop(); });
  sender_ = std::thread([this] { send_loop(); });
}

CoordinatorLink::~CoordinatorLink() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }
  poller_.join();
  sender_.join();
}

std::deque<NodeEvent> CoordinatorLink::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(events_, {});
}

void CoordinatorLink::wait(int timeout_ms) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                    [this] { return !events_.empty(); });
}

bool CoordinatorLink::away() const {
  const std::lock_guard lock(mutex_);
  return away_;
}

int64_t CoordinatorLink::term() const {
  const std::lock_guard lock(mutex_);
  return term_;
}

void CoordinatorLink::set_standing(const Standing& standing) {
  const std::lock_guard lock(mutex_);
  standing_ = standing;
}

void CoordinatorLink::push(NodeEvent event) {
  events_.push_back(std::move(event));
  changed_.notify_all();
}

void CoordinatorLink::poll_loop() {
  std::unique_ptr<ControlClient> client;
  Error unreached;
  int pause_ms = kFirstRetryMs;
  while (true) {
    if (client == nullptr) {
      auto connected = network_.connect_control(options_.coordinator, kConnectMs);
      if (connected.ok()) {
        client = std::move(connected).value();
      } else {
        unreached.message = connected.error().message;  // of no kind that would end the wait
      }
    }
    PollRequest request;
    {
      const std::lock_guard lock(mutex_);
      if (over_) return;
      request = {options_.session, term_, received_};
    }
    const auto reply = client ? client->poll(request) : Result<PollReply>(unreached);
    if (!handle(reply, client.get())) return;
    leave_if_asked(client.get());
    if (reply.ok()) {
      pause_ms = kFirstRetryMs;
      continue;
    }
    client.reset();
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(pause_ms), [this] { return over_; });
    pause_ms = std::min(pause_ms * 2, kLongestRetryMs);
  }
}

// Whether to go on polling.
bool CoordinatorLink::handle(const Result<PollReply>& reply, ControlClient* client) {
  if (reply.ok()) {
    if (reply->term != term_ || reply->attach) new_term(*reply, client);
    const std::lock_guard lock(mutex_);
    answered_ms_ = monotonic_ms();
    away_ = false;
    received_ += static_cast<int64_t>(reply->events.size());
    for (const NodeEvent& event : reply->events) push(event);
    if (reply->events.empty()) return true;
  } else {
    const std::lock_guard lock(mutex_);
    const int64_t silent_ms = monotonic_ms() - answered_ms_;
    const bool refused = reply.error().kind == ErrorKind::refused;
    away_ = away_ || silent_ms > kAwayMs;
    if (!refused && silent_ms <= options_.away_ms) return true;
    push(StopEvent{reply.error().kind, false,
                   refused ? reply.error().message
                           : fmt::format("the coordinator at {} has not answered for {} s: {}",
                                         options_.coordinator.text(), silent_ms / 1000,
                                         reply.error().message)});
  }
  options_.arrived();
  return reply.ok();
}

// The poller alone writes term_ and received_.
void CoordinatorLink::new_term(const PollReply& reply, ControlClient* client) {
  Standing standing;
  {
    const std::lock_guard lock(mutex_);
    standing = standing_;
  }
  // Where this fails, the next poll says attach again.
  if (reply.attach && !client->attach(options_.session, standing).ok()) return;
  const std::lock_guard lock(mutex_);
  term_ = reply.term;
  received_ = 0;
  sent_ = 0;
  leave_told_ = false;
  changed_.notify_all();
}

void CoordinatorLink::report(StepReport report) {
  const std::lock_guard lock(mutex_);
  reports_.push_back(std::move(report));
  changed_.notify_all();
}

void CoordinatorLink::report_fault(FaultReport fault) {
  const std::lock_guard lock(mutex_);
  faults_.push_back(std::move(fault));
  changed_.notify_all();
}

bool CoordinatorLink::all_reported() const {
  const std::lock_guard lock(mutex_);
  return sent_ == reports_.size() && !sending_;
}

void CoordinatorLink::wait_until_reported(int timeout_ms) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                    [this] { return (sent_ == reports_.size() && !sending_) || !events_.empty(); });
}

void CoordinatorLink::durable_before(int64_t step) {
  const std::lock_guard lock(mutex_);
  // One more stays: its digest is the checkpoint's.
  while (sent_ > 0 && !reports_.empty() && reports_.front().step + 1 < step) {
    reports_.pop_front();
    --sent_;
  }
}

void CoordinatorLink::send_loop() {
  std::unique_ptr<ControlClient> client;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return over_ || sent_ < reports_.size() || !faults_.empty(); });
    if (over_) return;
    sending_ = true;
    const bool is_fault = !faults_.empty();
    const FaultReport fault = is_fault ? faults_.front() : FaultReport{};
    const StepReport report = is_fault ? StepReport{} : reports_[sent_];
    const int64_t term = term_;
    lock.unlock();
    if (client == nullptr) {
      auto connected = network_.connect_control(options_.coordinator, kConnectMs);
      if (connected.ok()) client = std::move(connected).value();
    }
    Status status = Error{"it does not answer"};
    if (client != nullptr) {
      status = is_fault ? client->report_fault(fault) : client->report_step(report);
    }
    lock.lock();
    sending_ = false;
    const bool refused = !status.ok() && status.error().kind == ErrorKind::refused;
    if (status.ok() || refused) {
      if (is_fault) faults_.pop_front();
      const bool same =
          term == term_ && sent_ < reports_.size() && reports_[sent_].step == report.step;
      if (!is_fault && same) ++sent_;
      changed_.notify_all();
      continue;
    }
    client.reset();
    changed_.wait_for(lock, std::chrono::milliseconds(kLongestRetryMs), [this] { return over_; });
  }
}

void CoordinatorLink::ask_to_leave(const std::string& reason, int patience_ms) {
  {
    const std::lock_guard lock(mutex_);
    if (leave_asked_) push(StopEvent{ErrorKind::failed, false, reason});
    leave_asked_ = true;
    leave_reason_ = reason;
    leave_by_ms_ = monotonic_ms() + patience_ms;
  }
  options_.arrived();
}

void CoordinatorLink::leave_if_asked(ControlClient* client) {
  bool tell = false;
  bool late = false;
  {
    const std::lock_guard lock(mutex_);
    tell = leave_asked_ && !leave_told_ && client != nullptr;
    late = leave_asked_ && monotonic_ms() > leave_by_ms_;
    if (late) push(StopEvent{ErrorKind::failed, false, leave_reason_});
  }
  if (tell && client->ask_to_leave(options_.session).ok()) {
    const std::lock_guard lock(mutex_);
    leave_told_ = true;
  }
  if (late) options_.arrived();
}

}  // namespace lockstep
