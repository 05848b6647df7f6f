#include "host/job/fit_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "host/job/metric_table.h"
#include "host/job/options.h"

namespace lockstep {
namespace {

constexpr int64_t kMaxEpochs = 1'000'000;

}  // namespace

Status read_fit_options(const nlohmann::json& json, Job* job) {
  job->epochs = json.at("epochs");
  job->initial_epoch = json.value("initial_epoch", int64_t{0});
  job->steps_of_epoch = json.value("steps_per_epoch", int64_t{0});
  LOCKSTEP_RETURN_IF_ERROR(check_range("--epochs", job->epochs, 1, kMaxEpochs));
  LOCKSTEP_RETURN_IF_ERROR(check_range("--steps-per-epoch", job->steps_of_epoch, 0, kMaxSteps));
  if (job->initial_epoch < 0 || job->initial_epoch >= job->epochs) {
    return usage_error(
        fmt::format("--initial-epoch {}: must be at least 0 and below --epochs {}, where training "
                    "ends",
                    job->initial_epoch, job->epochs));
  }
  if (const auto freq = json.find("validation_freq"); freq != json.end()) {
    const bool is_list = freq->is_array();
    job->validation_freq =
        is_list ? freq->get<std::vector<int64_t>>() : std::vector{freq->get<int64_t>()};
    // A list of one stands for that epoch, a number for every so many.
    if (is_list && freq->size() == 1) job->validation_freq.push_back((*freq)[0]);
  }
  for (const int64_t number : job->validation_freq) {
    LOCKSTEP_RETURN_IF_ERROR(check_range("--validation-freq", number, 1, kMaxEpochs));
  }
  nlohmann::json callbacks = json.value("callbacks", nlohmann::json::array());
  if (callbacks.is_string()) callbacks = nlohmann::json::array({callbacks});
  LOCKSTEP_ASSIGN(job->callbacks, resolve_callbacks(callbacks));
  return {};
}

nlohmann::json fit_options_json(const Job& job) {
  nlohmann::json json = nlohmann::json::object();
  if (job.steps_of_epoch > 0) json["steps_per_epoch"] = job.steps_of_epoch;
  if (job.initial_epoch > 0) json["initial_epoch"] = job.initial_epoch;
  const std::vector<int64_t>& freq = job.validation_freq;
  if (freq.size() > 1) json["validation_freq"] = freq;
  if (freq.size() == 1 && freq[0] > 1) json["validation_freq"] = freq[0];
  const auto deciding = deciding_callbacks(job.callbacks);
  if (!deciding.empty()) json["callbacks"] = deciding;
  return json;
}

Result<Callbacks> job_callbacks(const Job& job) {
  CallbackContext context;
  const MetricTable table(job);
  context.metrics = table.names();
  context.rising = table.rising();
  context.has_validation = job.validation_split > 0 || !job.validation_data.empty();
  const auto& rate = job.optimizer.at("learning_rate");
  context.rate_is_schedule = !rate.is_number();
  if (rate.is_number()) context.learning_rate = rate;
  return Callbacks::create(job.callbacks, std::move(context));
}

bool ends_at_loss(const Job& job, double loss) {
  return !std::isfinite(loss) && has_callback(job.callbacks, "TerminateOnNaN");
}

}  // namespace lockstep
