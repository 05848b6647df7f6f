#include "host/observe/events.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "host/core/files.h"
#include "host/job/recipe.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

constexpr size_t kMuchWaiting = 64 << 10;  // bytes
constexpr auto kStepsEvery = std::chrono::milliseconds(100);

}  // namespace

Result<int> passed_descriptor(const std::string& flag, const std::string& text) {
  int descriptor = -1;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, descriptor);
  const bool number = parsed.ec == std::errc() && parsed.ptr == end && descriptor >= 0;
  if (number && ::fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0) return descriptor;
  return usage_error(
      fmt::format("{} {}: must be the number of an open file descriptor", flag, text));
}

Result<EventStream> EventStream::open(const std::string& target) {
  if (target == "-") return EventStream(STDOUT_FILENO);
  LOCKSTEP_ASSIGN(const int descriptor, passed_descriptor("--events", target));
  return EventStream(descriptor);
}

EventStream::EventStream(EventStream&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), waiting_(std::move(other.waiting_)) {}

void EventStream::say(const std::string& name, Json event) {
  event["event"] = name;
  waiting_ += event.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

bool EventStream::is_full() const { return waiting_.size() > kMuchWaiting; }

// A pipe that is ready takes PIPE_BUF bytes at once.
bool EventStream::can_write(int timeout_ms) const {
  pollfd entry{descriptor_, POLLOUT, 0};
  return ::poll(&entry, 1, timeout_ms) == 1;
}

Status EventStream::write_piece() {
  const ssize_t written =
      ::write(descriptor_, waiting_.data(), std::min<size_t>(waiting_.size(), PIPE_BUF));
  if (written < 0) {
    waiting_.clear();
    return Error{fmt::format("cannot write the events: {}: nobody reads them", errno_text())};
  }
  waiting_.erase(0, static_cast<size_t>(written));
  return {};
}

Status EventStream::flush() {
  while (!waiting_.empty() && can_write(0)) LOCKSTEP_RETURN_IF_ERROR(write_piece());
  return {};
}

Status EventStream::finish(int timeout_ms) {
  while (!waiting_.empty() && can_write(timeout_ms)) LOCKSTEP_RETURN_IF_ERROR(write_piece());
  return {};
}

JobEvents::JobEvents(const Job& job, EventStream& stream)
    : job_(job), metrics_(job), stream_(stream), sums_(static_cast<size_t>(metrics_.size())) {}

void JobEvents::resolved(int64_t parameters, const std::string& output) {
  stream_.say("job", {{"version", LOCKSTEP_VERSION},
                      {"model", job_.model},
                      {"data", job_.data},
                      {"output", output},
                      {"weights", parameters},
                      {"train_rows", job_.train_rows},
                      {"validation_rows", job_.validation_rows},
                      {"batch_size", job_.batch_size},
                      {"epochs", job_.epochs},
                      {"steps_per_epoch", job_.steps_per_epoch()},
                      {"partitions", job_.partitions},
                      {"numerics", job_.numerics},
                      {"metrics", metrics_.names()},
                      {"recipe_sha256", recipe_sha256(job_)}});
}

void JobEvents::observe(const CoordinatorAction& action) {
  if (const auto* joined = std::get_if<NodeJoined>(&action)) {
    names_[joined->member.session] = joined->member.name;
    stream_.say(
        "node_joined",
        {{"node", joined->member.name}, {"device", joined->device}, {"devices", joined->devices}});
  } else if (const auto* made = std::get_if<ViewMade>(&action)) {
    for (const Member& member : made->view.members) names_[member.session] = member.name;
  } else if (const auto* step = std::get_if<StepDone>(&action)) {
    step_done(*step);
  } else if (const auto* epoch = std::get_if<EpochRecord>(&action)) {
    epoch_done(epoch->done);
  } else if (const auto* left = std::get_if<NodeLeft>(&action)) {
    stream_.say("node_left",
                {{"node", name_of(left->session)}, {"step", left->step}, {"why", left->why}});
  } else if (const auto* lost = std::get_if<Recovered>(&action)) {
    stream_.say("recovery", {{"node", lost->name},
                             {"why", lost->why},
                             {"step", lost->step},
                             {"seconds", lost->seconds},
                             {"partitions", lost->partitions}});
  } else if (const auto* back = std::get_if<Restored>(&action)) {
    begin_epoch();
    stream_.say("restored", {{"step", back->step}, {"why", back->why}});
  }
}

void JobEvents::step_done(const StepDone& step) {
  add_sums(step.sums, &sums_);
  const int64_t per_epoch = job_.steps_per_epoch();
  const int64_t batch = step.step % per_epoch;
  const auto now = Clock::now();
  const bool due = now - last_step_ >= kStepsEvery || batch == per_epoch - 1;
  if (!due || stream_.is_full()) return;
  last_step_ = now;
  stream_.say("step", {{"step", step.step},
                       {"epoch", step.step / per_epoch},
                       {"batch", batch},
                       {"logs", logs(sums_, "")}});
}

void JobEvents::epoch_done(const EpochDone& epoch) {
  const std::chrono::duration<double> seconds = Clock::now() - epoch_begin_;
  stream_.say("epoch",
              {{"epoch", epoch.epoch}, {"seconds", seconds.count()}, {"logs", logs_of(epoch)}});
  begin_epoch();
}

void JobEvents::ask(const EpochDone& epoch) {
  stream_.say("decide", {{"epoch", epoch.epoch}, {"logs", logs_of(epoch)}});
}

Json JobEvents::logs_of(const EpochDone& epoch) const {
  Json values = logs(epoch.sums, "");
  if (!epoch.validation.empty()) values.update(logs(epoch.validation, "val_"));
  return values;
}

void JobEvents::begin_epoch() {
  epoch_begin_ = Clock::now();
  std::fill(sums_.begin(), sums_.end(), 0.0);
}

Json JobEvents::logs(const MetricSums& sums, const std::string& prefix) const {
  Json logs = Json::object();
  const std::vector<double> values = metrics_.values(sums);
  for (size_t i = 0; i < values.size(); ++i) logs[prefix + metrics_.names()[i]] = values[i];
  return logs;
}

}  // namespace lockstep
