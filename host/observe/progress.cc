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

}  // namespace

Progress::Progress(const Job& job, std::FILE* stream, Clock::time_point begin)
    : job_(job),
      stream_(stream),
      begin_(begin),
      terminal_(::isatty(::fileno(stream)) == 1),
      colour_(terminal_ && std::getenv("NO_COLOR") == nullptr) {}

void Progress::observe(const CoordinatorAction& action) {
  if (const auto* joined = std::get_if<NodeJoined>(&action)) {
    line(fmt::format("node '{}' joined: session {}, {}, {} device{}", joined->member.name,
                     joined->member.session, joined->device, joined->devices,
                     joined->devices == 1 ? "" : "s"));
  } else if (const auto* made = std::get_if<ViewMade>(&action)) {
    epoch_begin_ = Clock::now();
    for (const Member& member : made->view.members) {
      if (member.partitions.empty()) {
        line(fmt::format("node '{}' is a spare: all {} partitions have a node", member.name,
                         job_.partitions));
      }
    }
  } else if (const auto* step = std::get_if<StepDone>(&action)) {
    step_done(*step);
  } else if (const auto* epoch = std::get_if<EpochDone>(&action)) {
    epoch_done(*epoch);
  } else if (const auto* left = std::get_if<NodeLeft>(&action)) {
    if (left->why != "done") {
      line(fmt::format("session {} left at step {}: {}", left->session, left->step, left->why));
    }
  }
}

void Progress::step_done(const StepDone& step) {
  if (step.step == 0) {
    line(fmt::format("first step done {:.2f} s after the start",
                     seconds_between(begin_, Clock::now())));
  }
  loss_sum_ += step.loss_sum;
  correct_ += step.correct;
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
  const double left = static_cast<double>(job_.train_rows - rows_) / per_second;
  const char* green = colour_ ? "\033[32m" : "";
  const char* plain = colour_ ? "\033[0m" : "";
  fmt::print(stream_,
             "\r\033[KEpoch {}/{} {}/{} {}{}{}{} - {:.0f} s left - loss: {:.4f} - accuracy: "
             "{:.4f} - {:.0f} samples/s",
             step.step / job_.steps_per_epoch() + 1, job_.epochs, in_epoch, job_.steps_per_epoch(),
             green, std::string(filled, '='), std::string(kBarWidth - filled, '.'), plain, left,
             loss_sum_ / static_cast<double>(rows_),
             static_cast<double>(correct_) / static_cast<double>(rows_), per_second);
  std::fflush(stream_);
  drawn_ = true;
}

void Progress::epoch_done(const EpochDone& epoch) {
  const double seconds = std::max(1e-9, seconds_between(epoch_begin_, Clock::now()));
  std::string text = fmt::format("Epoch {}/{} - {:.1f}s - loss: {:.4f}", epoch.epoch + 1,
                                 job_.epochs, seconds, epoch.loss);
  if (!job_.metrics.empty()) text += fmt::format(" - accuracy: {:.4f}", epoch.accuracy);
  if (epoch.has_validation) text += fmt::format(" - val_loss: {:.4f}", epoch.validation_loss);
  if (epoch.has_validation && !job_.metrics.empty()) {
    text += fmt::format(" - val_accuracy: {:.4f}", epoch.validation_accuracy);
  }
  line(text + fmt::format(" - {:.0f} samples/s", static_cast<double>(rows_) / seconds));
  epoch_begin_ = Clock::now();
  loss_sum_ = 0;
  correct_ = 0;
  rows_ = 0;
}

void Progress::clear() {
  if (drawn_) fmt::print(stream_, "\r\033[K");
  drawn_ = false;
}

void Progress::line(const std::string& text) {
  clear();
  fmt::print(stream_, "{}\n", text);
  std::fflush(stream_);
}

}  // namespace lockstep
