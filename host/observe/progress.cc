#include "host/observe/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace lockstep {
namespace {

constexpr int kBarWidth = 24;
constexpr auto kRedrawEvery = std::chrono::milliseconds(100);

double seconds_between(std::chrono::steady_clock::time_point begin,
                       std::chrono::steady_clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

const char* plural(size_t count) { return count == 1 ? "" : "s"; }

}  // namespace

Progress::Progress(const Job& job, std::FILE* stream, Clock::time_point begin, bool json)
    : job_(job),
      metrics_(job),
      json_(json),
      fields_{short_job(recipe_sha256(job)), "coordinator"},
      stream_(stream),
      begin_(begin),
      terminal_(!json && ::isatty(::fileno(stream)) == 1),
      colour_(terminal_ && std::getenv("NO_COLOR") == nullptr),
      sums_(static_cast<size_t>(metrics_.size())) {}

void Progress::resumed(int64_t term, const std::optional<View>& former) {
  resumed_term_ = term;
  if (!former) return;
  for (const Member& member : former->members) names_[member.session] = member.name;
}

void Progress::observe(const CoordinatorAction& action) {
  if (const auto* step = std::get_if<StepDone>(&action)) fields_.step = step->step + 1;
  if (const auto* made = std::get_if<ViewMade>(&action)) fields_.view = made->view.number;
  if (const auto* back = std::get_if<Restored>(&action)) fields_.step = back->step;
  if (const auto* joined = std::get_if<NodeJoined>(&action)) {
    node_joined(*joined);
  } else if (const auto* made = std::get_if<ViewMade>(&action)) {
    view_made(made->view);
  } else if (const auto* step = std::get_if<StepDone>(&action)) {
    step_done(*step);
  } else if (const auto* epoch = std::get_if<EpochRecord>(&action)) {
    epoch_done(epoch->done);
    for (const std::string& note : epoch->decision.notes) line(note);
  } else if (const auto* left = std::get_if<NodeLeft>(&action)) {
    node_left(*left);
  } else if (const auto* lost = std::get_if<Recovered>(&action)) {
    recovered(*lost);
  } else if (const auto* back = std::get_if<Restored>(&action)) {
    restored(*back);
  } else if (std::holds_alternative<JobCompleted>(action) ||
             std::holds_alternative<JobFailed>(action)) {
    over_ = true;
  }
}

void Progress::node_joined(const NodeJoined& joined) {
  const SessionId session = joined.member.session;
  names_[session] = joined.member.name;
  live_.insert(session);
  line(fmt::format("node '{}' joined: session {}, {}, {} device{}", joined.member.name, session,
                   joined.device, joined.devices, plural(joined.devices)));
}

void Progress::view_made(const View& view) {
  if (!begun_) begin_counting();
  if (!begun_ && resumed_term_) {
    line(fmt::format("resumed from step {} (term {})", view.first_step, *resumed_term_));
  }
  const auto working = std::count_if(view.members.begin(), view.members.end(),
                                     [](const Member& m) { return !m.partitions.empty(); });
  for (const Member& member : view.members) {
    names_[member.session] = member.name;
    live_.insert(member.session);
    if (!member.partitions.empty()) {
      spares_.erase(member.session);
    } else if (working >= job_.partitions && spares_.insert(member.session).second) {
      line(fmt::format("node '{}' is a spare: all {} partitions have a node", member.name,
                       job_.partitions));
    }
  }
  begun_ = true;
}

void Progress::node_left(const NodeLeft& left) {
  live_.erase(left.session);
  if (over_ || left.why == "done") return;
  const auto count = live_.size();
  const std::string rest =
      count == 0 ? "no node is left, and the job waits for one"
                 : fmt::format("{} node{} go{} on", count, plural(count), count == 1 ? "es" : "");
  if (left.why == "left" && !begun_) {
    line(fmt::format("node '{}' left before the job began", name_of(left.session)));
  } else if (left.why == "left") {
    line(fmt::format("node '{}' handed over at step {} and left; {}", name_of(left.session),
                     left.step, rest));
  } else if (left.why == "it left") {
    line(fmt::format("node '{}' left at step {}; {}", name_of(left.session), left.step, rest));
  } else if (begun_) {
    line(fmt::format("node '{}' died at step {}: {}; {}", name_of(left.session), left.step,
                     left.why, rest));
  } else {
    line(fmt::format("node '{}' {}: {}", name_of(left.session),
                     resumed_term_ ? "did not come back" : "died before the job began", left.why));
  }
}

void Progress::recovered(const Recovered& recovered) {
  line(fmt::format("steps go on {:.2f} s after node '{}' died ({} partition{} computed again)",
                   recovered.seconds, recovered.name, recovered.partitions,
                   plural(recovered.partitions)));
}

void Progress::restored(const Restored& restored) {
  begin_counting();
  // A new coordinator that begins with a checkpoint has said so.
  const bool is_told = resumed_term_.has_value();
  resumed_term_.reset();
  if (!is_told) line(fmt::format("back to step {}: {}", restored.step, restored.why));
}

void Progress::begin_counting() {
  epoch_begin_ = Clock::now();
  std::fill(sums_.begin(), sums_.end(), 0.0);
  rows_ = 0;
}

std::string Progress::name_of(SessionId session) const {
  const auto found = names_.find(session);
  return found == names_.end() ? fmt::format("session {}", session) : found->second;
}

void Progress::step_done(const StepDone& step) {
  // Nodes that come back report steps before there is a view; that the run was resumed is told
  // with the view.
  if (begun_) resumed_term_.reset();
  if (!first_step_told_) {
    first_step_told_ = true;
    line(fmt::format("first step done {:.2f} s after the start",
                     seconds_between(begin_, Clock::now())));
  }
  add_sums(step.sums, &sums_);
  rows_ += step.rows;
  const auto now = Clock::now();
  if (!terminal_ || now - last_drawn_ < kRedrawEvery) return;
  last_drawn_ = now;
  draw(step);
}

void Progress::draw(const StepDone& step) {
  const int64_t in_epoch = step.step % job_.steps_per_epoch() + 1;
  const int filled = static_cast<int>(kBarWidth * in_epoch / job_.steps_per_epoch());
  const double seconds = std::max(1e-9, seconds_between(epoch_begin_, Clock::now()));
  const double per_second = static_cast<double>(rows_) / seconds;
  const int64_t rows_to_come = (job_.steps_per_epoch() - in_epoch) * job_.batch_size;
  const double left = static_cast<double>(rows_to_come) / std::max(1e-9, per_second);
  const char* green = colour_ ? "\033[32m" : "";
  const char* plain = colour_ ? "\033[0m" : "";
  fmt::print(stream_, "\r\033[KEpoch {}/{} {}/{} {}{}{}{} - {:.0f} s left - {} - {:.0f} samples/s",
             job_.initial_epoch + step.step / job_.steps_per_epoch() + 1, job_.epochs, in_epoch,
             job_.steps_per_epoch(), green, std::string(filled, '='),
             std::string(kBarWidth - filled, '.'), plain, left, metrics_.text(sums_), per_second);
  std::fflush(stream_);
  drawn_ = true;
}

void Progress::epoch_done(const EpochDone& epoch) {
  const double seconds = std::max(1e-9, seconds_between(epoch_begin_, Clock::now()));
  std::string text = fmt::format("Epoch {}/{} - {:.1f}s - {}", job_.initial_epoch + epoch.epoch + 1,
                                 job_.epochs, seconds, metrics_.text(epoch.sums));
  if (!epoch.validation.empty()) text += " - " + metrics_.text(epoch.validation, "val_");
  // None where this coordinator came when the epoch was over.
  if (rows_ > 0) {
    text += fmt::format(" - {:.0f} samples/s", static_cast<double>(rows_) / seconds);
  }
  line(text);
  begin_counting();
}

void Progress::clear() {
  if (drawn_) fmt::print(stream_, "\r\033[K");
  drawn_ = false;
}

void Progress::line(const std::string& text) {
  clear();
  if (json_) {
    fmt::print(stream_, "{}", json_log_line(fields_, text, std::chrono::system_clock::now()));
  } else {
    fmt::print(stream_, "{}\n", text);
  }
  std::fflush(stream_);
}

}  // namespace lockstep
