#include "host/observe/job_monitor.h"

#include <algorithm>
#include <cmath>

namespace lockstep {
namespace {

constexpr size_t kStepsKept = 65;  // 64 intervals
constexpr size_t kRecoveriesKept = 5;

// JSON has no NaN.
nlohmann::json number(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json();
}

}  // namespace

JobMonitor::JobMonitor(const Job& job)
    : job_(job),
      metrics_(job),
      recipe_(recipe_sha256(job)),
      sums_(static_cast<size_t>(metrics_.size())) {}

void JobMonitor::observe(const CoordinatorAction& action, double now) {
  if (const auto* step = std::get_if<StepDone>(&action)) {
    step_done(*step, now);
  } else if (const auto* epoch = std::get_if<EpochRecord>(&action)) {
    epoch_done(epoch->done);
  } else if (const auto* joined = std::get_if<NodeJoined>(&action)) {
    live_.insert(joined->member.session);
  } else if (const auto* made = std::get_if<ViewMade>(&action)) {
    members_.clear();
    for (const Member& member : made->view.members) {
      live_.insert(member.session);
      members_[member.session] = !member.partitions.empty();
    }
  } else if (const auto* left = std::get_if<NodeLeft>(&action)) {
    live_.erase(left->session);
    members_.erase(left->session);
    if (left->why != "done" && left->why != "left" && left->why != "it left") ++lost_;
  } else if (const auto* lost = std::get_if<Recovered>(&action)) {
    recovered(*lost);
  } else if (const auto* back = std::get_if<Restored>(&action)) {
    ++restores_;
    step_ = back->step;
    steps_.clear();
    std::fill(sums_.begin(), sums_.end(), 0.0);
    summed_ = false;
  } else if (std::holds_alternative<CheckpointDone>(action)) {
    checkpoint_seconds_ = now;
  }
}

void JobMonitor::step_done(const StepDone& step, double now) {
  step_ = step.step + 1;
  samples_ += step.rows;
  add_sums(step.sums, &sums_);
  summed_ = true;
  steps_.push_back({now, step.rows});
  if (steps_.size() > kStepsKept) steps_.pop_front();
}

void JobMonitor::epoch_done(const EpochDone& epoch) {
  last_metrics_ = named(epoch.sums);
  validation_ = epoch.validation.empty() ? nlohmann::json() : named(epoch.validation);
  std::fill(sums_.begin(), sums_.end(), 0.0);
  summed_ = false;
}

void JobMonitor::recovered(const Recovered& recovered) {
  ++recoveries_;
  last_recoveries_.push_front({{"node", recovered.name},
                               {"step", recovered.step},
                               {"seconds", recovered.seconds},
                               {"why", recovered.why}});
  if (last_recoveries_.size() > kRecoveriesKept) last_recoveries_.pop_back();
}

nlohmann::json JobMonitor::named(const MetricSums& sums) const {
  const std::vector<double> values = metrics_.values(sums);
  nlohmann::json json = nlohmann::json::object();
  for (size_t i = 0; i < values.size(); ++i) json[metrics_.names()[i]] = number(values[i]);
  return json;
}

nlohmann::json JobMonitor::nodes_json() const {
  const auto working = std::count_if(members_.begin(), members_.end(),
                                     [](const auto& entry) { return entry.second; });
  const auto members = static_cast<int64_t>(members_.size());
  const auto live = static_cast<int64_t>(live_.size());
  return {{"working", working},
          {"spare", members - working},
          {"joining", std::max<int64_t>(0, live - members)},
          {"lost", lost_}};
}

nlohmann::json JobMonitor::json(double now) const {
  nlohmann::json step_seconds;
  nlohmann::json samples_per_second;
  if (steps_.size() > 1) {
    const double seconds = steps_.back().seconds - steps_.front().seconds;
    int64_t rows = 0;
    for (size_t i = 1; i < steps_.size(); ++i) rows += steps_[i].rows;
    step_seconds = seconds / static_cast<double>(steps_.size() - 1);
    if (seconds > 0) samples_per_second = static_cast<double>(rows) / seconds;
  }
  nlohmann::json job = {
      {"model", job_.model},           {"data", job_.data},
      {"numerics", job_.numerics},     {"recipe_sha256", recipe_},
      {"partitions", job_.partitions}, {"epochs", job_.epochs},
      {"batch_size", job_.batch_size}, {"steps_per_epoch", job_.steps_per_epoch()},
      {"steps", job_.total_steps()}};
  return {{"job", std::move(job)},
          {"epoch", job_.initial_epoch + step_ / job_.steps_per_epoch()},
          {"step_seconds", step_seconds},
          {"samples_per_second", samples_per_second},
          {"samples", samples_},
          {"metrics", summed_ ? named(sums_) : last_metrics_},
          {"validation", validation_},
          {"nodes", nodes_json()},
          {"recoveries", recoveries_},
          {"restores", restores_},
          {"last_recoveries", last_recoveries_},
          {"checkpoint_age_seconds",
           checkpoint_seconds_ < 0 ? nlohmann::json() : nlohmann::json(now - checkpoint_seconds_)}};
}

}  // namespace lockstep
