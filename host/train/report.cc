#include "host/train/report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace lockstep {
namespace {

nlohmann::json number_or_null(const std::optional<int64_t>& number) {
  return number ? nlohmann::json(*number) : nlohmann::json();
}

}  // namespace

void JobReport::resume(const RecoveredJob& recovered) {
  for (const EpochRecord& epoch : recovered.epochs) epoch_decided(epoch);
  if (recovered.checkpoints.empty()) return;
  const CheckpointRecord& newest = recovered.checkpoints.back();
  steps_ = newest.state.step;
  samples_consumed_ = newest.samples_consumed;
  last_checkpoint_ = newest.state.step;
}

void JobReport::observe(const CoordinatorAction& action) {
  if (const auto* joined = std::get_if<NodeJoined>(&action)) {
    NodeEntry& node = nodes_[joined->member.session];
    node.name = joined->member.name;
    node.device = joined->device;
    node.devices = joined->devices;
  } else if (const auto* made = std::get_if<ViewMade>(&action)) {
    view_made(made->view);
  } else if (const auto* step = std::get_if<StepDone>(&action)) {
    steps_ = std::max(steps_, step->step + 1);
  } else if (const auto* samples = std::get_if<SamplesConsumed>(&action)) {
    consumed(*samples);
  } else if (const auto* epoch = std::get_if<EpochRecord>(&action)) {
    epoch_decided(*epoch);
  } else if (const auto* done = std::get_if<CheckpointDone>(&action)) {
    ++checkpoints_;
    last_checkpoint_ = done->step;
  } else if (const auto* back = std::get_if<Restored>(&action)) {
    restored(*back);
  } else if (const auto* lost = std::get_if<Recovered>(&action)) {
    recovered(*lost);
  } else if (const auto* left = std::get_if<NodeLeft>(&action)) {
    nodes_[left->session].left_step = left->step;
    nodes_[left->session].left_why = left->why;
  }
}

// Nodes of an earlier term have not joined in this one: the view knows their names.
void JobReport::view_made(const View& view) {
  if (!view.restores) steps_ = std::max(steps_, view.first_step);
  for (const Member& member : view.members) {
    NodeEntry& node = nodes_[member.session];
    node.name = member.name;
    if (!node.joined_step) node.joined_step = view.first_step;
  }
}

// The coordinator tells each (step, partition) once.
void JobReport::consumed(const SamplesConsumed& samples) {
  for (const PartitionSamples& part : samples.partitions) {
    samples_consumed_ += part.rows;
    samples_here_ += part.rows;
    if (ledger_) ledger_->add(samples.step, part);
    if (samples.session != 0) ++nodes_[samples.session].partition_steps;
  }
}

void JobReport::epoch_decided(const EpochRecord& epoch) {
  keep_epochs(epoch.done.epoch);
  epochs_.push_back(epoch);
  logs_.push_back(log_table_.logs(epochs_, epochs_.size() - 1));
}

void JobReport::keep_epochs(int64_t epochs) {
  const auto count = std::min(epochs_.size(), static_cast<size_t>(epochs));
  epochs_.resize(count);
  logs_.resize(count);
}

std::map<std::string, std::vector<double>> JobReport::history() const {
  std::map<std::string, std::vector<double>> history;
  for (const EpochLogs& logs : logs_) {
    for (const auto& [name, value] : logs.values) history[name].push_back(value);
  }
  return history;
}

// Of all steps that were to be done: none after a decision to stop.
int64_t JobReport::samples_assigned() const {
  const bool stopped = !epochs_.empty() && epochs_.back().decision.stop;
  return job_.rows_before(stopped ? epochs_.back().done.last_state(job_.steps_per_epoch())
                                  : job_.total_steps());
}

// The epochs whose states are kept, and the one whose weights are the job's, as people count.
nlohmann::json JobReport::kept_json() const {
  nlohmann::json json = {{"best_epoch", nullptr}, {"kept_epochs", nlohmann::json::array()}};
  if (epochs_.empty()) return json;
  const EpochDecision& last = epochs_.back().decision;
  if (last.best) json["best_epoch"] = job_.initial_epoch + *last.best + 1;
  for (const int64_t epoch : last.keep) {
    json["kept_epochs"].push_back(job_.initial_epoch + epoch + 1);
  }
  return json;
}

void JobReport::restored(const Restored& restored) {
  steps_ = restored.step;
  samples_consumed_ = restored.samples_consumed;
  keep_epochs(restored.step / job_.steps_per_epoch());
  if (ledger_) ledger_->restore(restored.step);
  restores_.push_back({{"step", restored.step}, {"why", restored.why}});
}

void JobReport::recovered(const Recovered& recovered) {
  recoveries_.push_back({{"node", recovered.name},
                         {"session", recovered.session},
                         {"why", recovered.why},
                         {"step", recovered.step},
                         {"seconds", recovered.seconds},
                         {"partition_steps_again", recovered.partitions}});
}

void JobReport::finish(const std::string& status, const std::string& stop_reason,
                       const std::string& weights_sha256, double seconds) {
  status_ = status;
  stop_reason_ = stop_reason;
  if (stop_reason.empty()) {
    stop_reason_ = "all epochs done";
    if (!epochs_.empty() && epochs_.back().decision.stop) {
      stop_reason_ = fmt::format("{}", fmt::join(epochs_.back().decision.notes, "; "));
    }
  }
  weights_sha256_ = weights_sha256;
  seconds_ = seconds;
}

nlohmann::json JobReport::nodes_json() const {
  nlohmann::json nodes = nlohmann::json::array();
  for (const auto& [session, node] : nodes_) {
    const int64_t last = node.left_step.value_or(steps_);
    nodes.push_back({{"id", session},
                     {"name", node.name},
                     {"device", node.device},
                     {"devices", node.devices},
                     {"steps", std::max<int64_t>(0, last - node.joined_step.value_or(last))},
                     {"partition_steps", node.partition_steps},
                     {"joined_step", number_or_null(node.joined_step)},
                     {"left", node.left_why},
                     {"left_step", number_or_null(node.left_step)}});
  }
  return nodes;
}

std::optional<double> JobReport::learning_rate_after(int64_t epochs) const {
  if (epochs == 0) return log_table_.first_set_rate();
  if (epochs < 0 || epochs > decided_epochs()) return std::nullopt;
  return epochs_[static_cast<size_t>(epochs) - 1].decision.learning_rate;
}

nlohmann::json JobReport::json() const {
  nlohmann::json json = {
      {"status", status_},
      {"stop_reason", stop_reason_},
      {"exact", job_.exact},
      {"recipe_sha256", recipe_sha256(job_)},
      {"weights_sha256", weights_sha256_},
      {"strategy", job_.strategy},
      {"partitions", job_.partitions},
      {"steps", steps_},
      {"epochs", epochs_.size()},
      {"samples_assigned", samples_assigned()},
      {"samples_consumed", samples_consumed_},
      {"history", history()},
      {"nodes", nodes_json()},
      {"recoveries", recoveries_},
      {"restores", restores_},
      {"checkpoints", {{"count", checkpoints_}, {"last_step", number_or_null(last_checkpoint_)}}},
      {"seconds", seconds_},
      {"samples_per_second", seconds_ > 0 ? static_cast<double>(samples_here_) / seconds_ : 0.0},
      {"error", status_ == "completed" ? nlohmann::json() : nlohmann::json(stop_reason_)}};
  json.update(kept_json());
  return json;
}

}  // namespace lockstep
