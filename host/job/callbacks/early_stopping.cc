#include <fmt/format.h>

#include "host/job/callback_table.h"

namespace lockstep {
namespace {

class EarlyStopping final : public Callback {
 public:
  EarlyStopping(Monitor monitor, const nlohmann::json& config)
      : monitor_(std::move(monitor)),
        patience_(config.at("patience")),
        start_from_epoch_(config.at("start_from_epoch")),
        restores_(config.at("restore_best_weights")) {
    if (!config.at("baseline").is_null()) baseline_ = config.at("baseline").get<float>();
  }

  void epoch_ended(const EpochLogs& logs, CallbackScope* scope) override {
    const auto current = logs.value(monitor_.name());
    if (!current || logs.epoch < start_from_epoch_) return;
    if (!best_epoch_) best_epoch_ = logs.index;
    ++wait_;
    if (monitor_.improves(*current, best_)) {
      best_ = *current;
      best_epoch_ = logs.index;
      if (!baseline_ || monitor_.improves(*current, *baseline_)) wait_ = 0;
      return;
    }
    if (wait_ < patience_ || logs.epoch == 0) return;
    scope->stop = true;
    scope->notes.push_back(
        fmt::format("Epoch {}: early stopping: {} has not become better than {:.5g} in {} epoch{}",
                    logs.epoch + 1, monitor_.name(), *best_, wait_, wait_ == 1 ? "" : "s"));
  }

  std::vector<int64_t> kept_epochs() const override {
    const auto restored = restored_epoch();
    return restored ? std::vector{*restored} : std::vector<int64_t>{};
  }
  std::optional<int64_t> restored_epoch() const override {
    return restores_ ? best_epoch_ : std::nullopt;
  }

 private:
  const Monitor monitor_;
  const int64_t patience_;
  const int64_t start_from_epoch_;
  const bool restores_;
  std::optional<float> baseline_;
  std::optional<float> best_;
  std::optional<int64_t> best_epoch_;
  int64_t wait_ = 0;
};

Result<std::unique_ptr<Callback>> make_early_stopping(const nlohmann::json& config,
                                                      const CallbackContext& context) {
  LOCKSTEP_ASSIGN(Monitor monitor, Monitor::create(config, context));
  for (const char* key : {"patience", "start_from_epoch"}) {
    LOCKSTEP_RETURN_IF_ERROR(whole_number(config, key, 0));
  }
  const auto& baseline = config.at("baseline");
  if (!baseline.is_null() && !baseline.is_number()) {
    return usage_error(fmt::format("baseline must be a number or null, not {}", baseline.dump()));
  }
  return std::unique_ptr<Callback>(new EarlyStopping(std::move(monitor), config));
}

}  // namespace

CallbackType early_stopping_type() {
  auto keys = monitor_keys();
  keys.insert(keys.end(), {{"patience", KeyKind::integer, 0},
                           {"baseline", KeyKind::any, nullptr},
                           {"restore_best_weights", KeyKind::flag, false},
                           {"start_from_epoch", KeyKind::integer, 0}});
  return {"EarlyStopping", "ends the job when a quantity has stopped getting better", keys, true,
          make_early_stopping};
}

}  // namespace lockstep
