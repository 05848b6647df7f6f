#include "host/train/report.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep {
namespace {

nlohmann::json number_or_null(const std::optional<int64_t>& number) {
  return number ? nlohmann::json(*number) : nlohmann::json();
}

}  // namespace

void JobReport::resume(const RecoveredJob& recovered) {
  for (const EpochRecord& epoch : recovered.epochs) epoch_done(epoch.done);
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
  } else if (const auto* epoch = std::get_if<EpochDone>(&action)) {
    epoch_done(*epoch);
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

void JobReport::epoch_done(const EpochDone& epoch) {
  keep_epochs(epoch.epoch);
  ++epochs_;
  metrics_.append(epoch.sums, "", &history_);
  if (!epoch.validation.empty()) metrics_.append(epoch.validation, "val_", &history_);
}

void JobReport::keep_epochs(int64_t epochs) {
  epochs_ = std::min(epochs_, epochs);
  for (auto& [name, values] : history_) {
    values.resize(std::min(values.size(), static_cast<size_t>(epochs)));
  }
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

nlohmann::json JobReport::json() const {
  return {
      {"status", status_},
      {"stop_reason", stop_reason_},
      {"exact", true},
      {"recipe_sha256", recipe_sha256(job_)},
      {"weights_sha256", weights_sha256_},
      {"strategy", job_.strategy},
      {"partitions", job_.partitions},
      {"steps", steps_},
      {"epochs", epochs_},
      {"samples_assigned", job_.train_rows * job_.epochs},
      {"samples_consumed", samples_consumed_},
      {"history", history_},
      {"nodes", nodes_json()},
      {"recoveries", recoveries_},
      {"restores", restores_},
      {"checkpoints", {{"count", checkpoints_}, {"last_step", number_or_null(last_checkpoint_)}}},
      {"seconds", seconds_},
      {"samples_per_second", seconds_ > 0 ? static_cast<double>(samples_here_) / seconds_ : 0.0},
      {"error", status_ == "completed" ? nlohmann::json() : nlohmann::json(stop_reason_)}};
}

std::string JobReport::history_csv() const {
  std::string text = "epoch";
  for (const auto& [name, values] : history_) text += "," + name;
  text += "\n";
  for (int64_t epoch = 0; epoch < epochs_; ++epoch) {
    text += fmt::format("{}", epoch);
    for (const auto& [name, values] : history_) text += fmt::format(",{}", values[epoch]);
    text += "\n";
  }
  return text;
}

}  // namespace lockstep
