#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <iterator>

#include "host/job/callback_table.h"

namespace lockstep {
namespace {

using Rates = std::map<int64_t, double>;

// Keras calls a function at the beginning of an epoch. This one gives the rate that stands in a
// table, or the rate as it is. A training that begins behind an epoch of the table begins with its
// rate.
class LearningRateScheduler final : public Callback {
 public:
  explicit LearningRateScheduler(Rates rates) : rates_(std::move(rates)) {}

  void epoch_begins(int64_t epoch, CallbackScope* scope) override {
    auto found = rates_.find(epoch);
    if (!begun_ && found == rates_.end()) {
      found = rates_.lower_bound(epoch);
      found = found == rates_.begin() ? rates_.end() : std::prev(found);
    }
    begun_ = true;
    if (found == rates_.end()) return;
    scope->set_rate(found->second);
    scope->notes.push_back(
        fmt::format("Epoch {}: learning rate set to {:.5g}", epoch + 1, found->second));
  }

 private:
  const Rates rates_;
  bool begun_ = false;
};

Result<std::unique_ptr<Callback>> make_learning_rate_scheduler(const nlohmann::json& config,
                                                               const CallbackContext& context) {
  LOCKSTEP_RETURN_IF_ERROR(check_rate_is_settable(context));
  const auto& table = config.at("schedule");
  if (!table.is_object() || table.empty()) {
    return usage_error(fmt::format(
        "schedule must be rates by the epoch from which they hold, as in {{\"0\": 0.01, \"10\": "
        "0.001}}, not {}",
        table.dump()));
  }
  Rates rates;
  for (const auto& [key, value] : table.items()) {
    int64_t epoch = -1;
    const char* end = key.data() + key.size();
    const auto parsed = std::from_chars(key.data(), end, epoch);
    if (parsed.ec != std::errc() || parsed.ptr != end || epoch < 0) {
      return usage_error(fmt::format("schedule: '{}' is no epoch; they count from 0", key));
    }
    const double rate = value.is_number() ? value.get<double>() : -1;
    if (!(rate >= 0 && std::isfinite(static_cast<float>(rate)))) {
      return usage_error(
          fmt::format("schedule: epoch {} has the rate {}, not a number of at least "
                      "0",
                      key, value.dump()));
    }
    rates[epoch] = rate;
  }
  return std::unique_ptr<Callback>(new LearningRateScheduler(std::move(rates)));
}

}  // namespace

CallbackType learning_rate_scheduler_type() {
  return {"LearningRateScheduler",
          "sets the learning rate at the beginning of epochs",
          {{"schedule", KeyKind::any}},
          true,
          make_learning_rate_scheduler};
}

}  // namespace lockstep
