#include <fmt/format.h>

#include <algorithm>

#include "host/job/callback_table.h"

namespace lockstep {
namespace {

class ReduceLROnPlateau final : public Callback {
 public:
  ReduceLROnPlateau(Monitor monitor, const nlohmann::json& config)
      : monitor_(std::move(monitor)),
        factor_(config.at("factor")),
        min_rate_(config.at("min_lr")),
        patience_(config.at("patience")),
        cooldown_(config.at("cooldown")) {}

  void epoch_ended(const EpochLogs& logs, CallbackScope* scope) override {
    const auto current = logs.value(monitor_.name());
    if (!current) return;
    if (cooling_ > 0) {
      --cooling_;
      wait_ = 0;
    }
    if (monitor_.improves(*current, best_)) {
      best_ = *current;
      wait_ = 0;
      return;
    }
    if (cooling_ > 0 || ++wait_ < patience_) return;
    if (scope->learning_rate <= static_cast<float>(min_rate_)) return;
    scope->set_rate(std::max(scope->learning_rate * factor_, min_rate_));
    cooling_ = cooldown_;
    wait_ = 0;
    scope->notes.push_back(fmt::format("Epoch {}: learning rate reduced to {:.5g}", logs.epoch + 1,
                                       scope->learning_rate));
  }

 private:
  const Monitor monitor_;
  const double factor_;
  const double min_rate_;
  const int64_t patience_;
  const int64_t cooldown_;
  std::optional<float> best_;
  int64_t wait_ = 0;
  int64_t cooling_ = 0;
};

Result<std::unique_ptr<Callback>> make_reduce_lr_on_plateau(const nlohmann::json& config,
                                                            const CallbackContext& context) {
  LOCKSTEP_RETURN_IF_ERROR(check_rate_is_settable(context));
  LOCKSTEP_ASSIGN(Monitor monitor, Monitor::create(config, context));
  for (const char* key : {"patience", "cooldown"}) {
    LOCKSTEP_RETURN_IF_ERROR(whole_number(config, key, 0));
  }
  const double factor = config.at("factor");
  if (!(factor > 0 && factor < 1)) {
    return usage_error(fmt::format("factor must be above 0 and below 1, not {}", factor));
  }
  if (config.at("min_lr") < 0) return usage_error("min_lr must be at least 0");
  return std::unique_ptr<Callback>(new ReduceLROnPlateau(std::move(monitor), config));
}

}  // namespace

CallbackType reduce_lr_on_plateau_type() {
  return {"ReduceLROnPlateau",
          "lowers the learning rate when a quantity has stopped getting better",
          {{"monitor", KeyKind::text, "val_loss"},
           {"mode", KeyKind::text, "auto"},
           {"min_delta", KeyKind::number, 1e-4},
           {"factor", KeyKind::number, 0.1},
           {"patience", KeyKind::integer, 10},
           {"cooldown", KeyKind::integer, 0},
           {"min_lr", KeyKind::number, 0.0}},
          true,
          make_reduce_lr_on_plateau};
}

}  // namespace lockstep
