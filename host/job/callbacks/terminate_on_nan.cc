#include <fmt/format.h>

#include <cmath>

#include "host/job/callback_table.h"

namespace lockstep {
namespace {

// Each node ends the epoch by itself, at the first step whose loss is no number
// (ends_at_loss in fit_job.h); what is left to decide is that none follows.
class TerminateOnNaN final : public Callback {
 public:
  void epoch_ended(const EpochLogs& logs, CallbackScope* scope) override {
    const auto loss = logs.value("loss");
    if (!loss || std::isfinite(*loss)) return;
    scope->stop = true;
    scope->notes.push_back(
        fmt::format("Epoch {}: the loss is {}: training is terminated", logs.epoch + 1, *loss));
  }
};

Result<std::unique_ptr<Callback>> make_terminate_on_nan(const nlohmann::json&,
                                                        const CallbackContext&) {
  return std::unique_ptr<Callback>(new TerminateOnNaN());
}

}  // namespace

CallbackType terminate_on_nan_type() {
  return {"TerminateOnNaN",
          "ends the job at the first step whose loss is no number",
          {},
          true,
          make_terminate_on_nan};
}

}  // namespace lockstep
