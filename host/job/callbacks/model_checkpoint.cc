#include <fmt/format.h>

#include "host/job/callback_table.h"

namespace lockstep {
namespace {

// The states of an epoch's end are checkpoints anyway; these are kept when others go.
class ModelCheckpoint final : public Callback {
 public:
  ModelCheckpoint(std::optional<Monitor> monitor, const nlohmann::json& config)
      : monitor_(std::move(monitor)) {
    const auto& threshold = config.at("initial_value_threshold");
    if (!threshold.is_null()) best_ = threshold.get<float>();
  }

  void epoch_ended(const EpochLogs& logs, CallbackScope*) override {
    if (!monitor_) {
      kept_.push_back(logs.index);
      return;
    }
    const auto current = logs.value(monitor_->name());
    if (current && !monitor_->improves(*current, best_)) return;
    if (current) best_ = *current;
    kept_ = {logs.index};
  }

  std::vector<int64_t> kept_epochs() const override { return kept_; }

 private:
  const std::optional<Monitor> monitor_;  // none: every epoch is kept
  std::optional<float> best_;
  std::vector<int64_t> kept_;
};

Result<std::unique_ptr<Callback>> make(const nlohmann::json& config,
                                       const CallbackContext& context) {
  const auto& threshold = config.at("initial_value_threshold");
  if (!threshold.is_null() && !threshold.is_number()) {
    return usage_error(
        fmt::format("initial_value_threshold must be a number or null, not {}", threshold.dump()));
  }
  std::optional<Monitor> monitor;
  if (config.at("save_best_only")) {
    nlohmann::json watched = config;
    watched["min_delta"] = 0.0;
    LOCKSTEP_ASSIGN(monitor, Monitor::create(watched, context));
  }
  return std::unique_ptr<Callback>(new ModelCheckpoint(std::move(monitor), config));
}

}  // namespace

CallbackType model_checkpoint_type() {
  return {"ModelCheckpoint",
          "keeps the checkpoint of the best epoch, or of all epochs, when others go",
          {{"monitor", KeyKind::text, "val_loss"},
           {"mode", KeyKind::text, "auto"},
           {"save_best_only", KeyKind::flag, false},
           {"initial_value_threshold", KeyKind::any, nullptr}},
          false,
          make};
}

}  // namespace lockstep
