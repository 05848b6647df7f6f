#include "host/train/epoch_logs.h"

#include <fmt/format.h>

#include <set>

#include "host/core/check.h"
#include "host/job/fit_job.h"

namespace lockstep {

EpochLogTable::EpochLogTable(const Job& job, bool decided_outside) : job_(job), metrics_(job) {
  const auto& own = job.optimizer.is_object() && job.optimizer.contains("learning_rate")
                        ? job.optimizer.at("learning_rate")
                        : nlohmann::json();
  if (own.is_number()) own_rate_ = static_cast<float>(own.get<double>());
  const bool by_callbacks = has_callback(job.callbacks, "ReduceLROnPlateau") ||
                            has_callback(job.callbacks, "LearningRateScheduler");
  shows_rate_ = by_callbacks || (decided_outside && own.is_number());
  if (!by_callbacks) return;
  const auto callbacks = job_callbacks(job);
  LOCKSTEP_CHECK(callbacks.ok());  // a job has no other
  first_set_rate_ = callbacks->first_learning_rate(job.initial_epoch);
}

EpochLogs EpochLogTable::logs(const EpochDone& done) const {
  EpochLogs logs{done.epoch, job_.initial_epoch + done.epoch, {}};
  const auto add = [&](const MetricSums& sums, const std::string& prefix) {
    const auto values = metrics_.values(sums);
    for (size_t i = 0; i < values.size(); ++i)
      logs.values[prefix + metrics_.names()[i]] = values[i];
  };
  add(done.sums, "");
  if (!done.validation.empty()) add(done.validation, "val_");
  return logs;
}

EpochLogs EpochLogTable::logs(const std::vector<EpochRecord>& epochs, size_t i) const {
  EpochLogs result = logs(epochs[i].done);
  if (!shows_rate_) return result;
  const auto set = i == 0 ? first_set_rate_ : epochs[i - 1].decision.learning_rate;
  result.values["learning_rate"] = set.value_or(own_rate_);
  return result;
}

std::string history_csv(const std::vector<EpochLogs>& epochs, const std::string& separator) {
  std::set<std::string> names;
  for (const EpochLogs& logs : epochs) {
    for (const auto& [name, value] : logs.values) names.insert(name);
  }
  std::string text = "epoch";
  for (const std::string& name : names) text += separator + name;
  text += "\n";
  for (const EpochLogs& logs : epochs) {
    text += fmt::format("{}", logs.epoch);
    for (const std::string& name : names) {
      const auto found = logs.values.find(name);
      text += separator + (found == logs.values.end() ? "NA" : fmt::format("{}", found->second));
    }
    text += "\n";
  }
  return text;
}

}  // namespace lockstep
