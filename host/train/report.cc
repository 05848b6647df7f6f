#include "host/train/report.h"

#include <fmt/format.h>

namespace lockstep {

void JobReport::observe(const CoordinatorAction& action) {
  if (const auto* joined = std::get_if<NodeJoined>(&action)) {
    NodeEntry& node = nodes_[joined->member.session];
    node.name = joined->member.name;
    node.device = joined->device;
    node.devices = joined->devices;
  } else if (const auto* made = std::get_if<ViewMade>(&action)) {
    for (const Member& member : made->view.members) {
      nodes_[member.session].partitions = member.partitions;
    }
  } else if (std::holds_alternative<StepDone>(action)) {
    ++steps_;
  } else if (const auto* samples = std::get_if<SamplesConsumed>(&action)) {
    consumed(*samples);
  } else if (const auto* epoch = std::get_if<EpochDone>(&action)) {
    epoch_done(*epoch);
  } else if (const auto* left = std::get_if<NodeLeft>(&action)) {
    nodes_[left->session].steps = left->step;
    nodes_[left->session].left_why = left->why;
  }
}

// A partition counts once a step, whoever computed it and however often.
void JobReport::consumed(const SamplesConsumed& samples) {
  for (const PartitionSamples& entry : samples.partitions) {
    if (!open_steps_[samples.step].insert(entry.partition).second) continue;
    samples_consumed_ += entry.rows;
    if (keep_ledger_) ledger_[{samples.step, entry.partition}] = entry.samples;
    for (auto& [session, node] : nodes_) {
      if (node.partitions.contains(entry.partition)) ++node.partition_steps;
    }
  }
  // Reports of a step come at most one step apart.
  while (!open_steps_.empty() && open_steps_.begin()->first + 8 < samples.step) {
    open_steps_.erase(open_steps_.begin());
  }
}

void JobReport::epoch_done(const EpochDone& epoch) {
  ++epochs_;
  history_["loss"].push_back(epoch.loss);
  const bool accuracy = !job_.metrics.empty();
  if (accuracy) history_["accuracy"].push_back(epoch.accuracy);
  if (!epoch.has_validation) return;
  history_["val_loss"].push_back(epoch.validation_loss);
  if (accuracy) history_["val_accuracy"].push_back(epoch.validation_accuracy);
}

void JobReport::finish(const std::string& status, const std::string& stop_reason,
                       const std::string& weights_sha256, double seconds) {
  status_ = status;
  stop_reason_ = stop_reason;
  weights_sha256_ = weights_sha256;
  seconds_ = seconds;
}

nlohmann::json JobReport::json() const {
  nlohmann::json nodes = nlohmann::json::array();
  for (const auto& [session, node] : nodes_) {
    nodes.push_back({{"id", session},
                     {"name", node.name},
                     {"device", node.device},
                     {"devices", node.devices},
                     {"steps", node.steps},
                     {"partition_steps", node.partition_steps},
                     {"left", node.left_why}});
  }
  return {{"status", status_},
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
          {"nodes", nodes},
          {"recoveries", nlohmann::json::array()},
          {"seconds", seconds_},
          {"samples_per_second",
           seconds_ > 0 ? static_cast<double>(samples_consumed_) / seconds_ : 0.0},
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

std::string JobReport::ledger() const {
  std::string text;
  for (const auto& [key, samples] : ledger_) {
    text += nlohmann::json{{"epoch", key.first / job_.steps_per_epoch()},
                           {"step", key.first},
                           {"partition", key.second},
                           {"samples", samples}}
                .dump() +
            "\n";
  }
  return text;
}

}  // namespace lockstep
