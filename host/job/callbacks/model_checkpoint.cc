#include <fmt/args.h>
#include <fmt/format.h>

#include <filesystem>
#include <string_view>

#include "host/job/callback_table.h"

namespace lockstep {
namespace {

// A filepath with the epoch and the logs in the place of {epoch:02d} and {val_loss:.2f}.
Result<std::string> path_of(const std::string& filepath, const EpochLogs& logs) {
  fmt::dynamic_format_arg_store<fmt::format_context> values;
  values.push_back(fmt::arg("epoch", logs.epoch + 1));
  for (const auto& [name, value] : logs.values) values.push_back(fmt::arg(name.c_str(), value));
  try {
    return fmt::vformat(filepath, values);
  } catch (const fmt::format_error& error) {
    return usage_error(
        fmt::format("filepath '{}' cannot be filled in ({}): write {{epoch:02d}} or {{loss:.2f}}, "
                    "of what every epoch measures",
                    filepath, error.what()));
  }
}

// The states of an epoch's end are checkpoints anyway; these are kept when others go.
class ModelCheckpoint final : public Callback {
 public:
  ModelCheckpoint(std::optional<Monitor> monitor, const nlohmann::json& config)
      : monitor_(std::move(monitor)), weights_only_(config.at("save_weights_only")) {
    const auto& threshold = config.at("initial_value_threshold");
    if (!threshold.is_null()) best_ = threshold.get<float>();
    const auto& filepath = config.at("filepath");
    if (!filepath.is_null()) filepath_ = filepath.get<std::string>();
  }

  void epoch_ended(const EpochLogs& logs, CallbackScope*) override {
    saved_.reset();
    if (monitor_) {
      const auto current = logs.value(monitor_->name());
      if (current && !monitor_->improves(*current, best_)) return;
      if (current) best_ = *current;
      kept_.clear();
    }
    kept_.push_back(logs.index);
    saved_ = logs;
  }

  std::vector<int64_t> kept_epochs() const override { return kept_; }

  Result<std::optional<SavedModel>> saved_model() const override {
    if (filepath_.empty() || !saved_) return {std::nullopt};
    LOCKSTEP_ASSIGN(const std::string path, path_of(filepath_, *saved_));
    return {SavedModel{path, weights_only_}};
  }

 private:
  const std::optional<Monitor> monitor_;  // none: every epoch is kept
  const bool weights_only_;
  std::string filepath_;
  std::optional<float> best_;
  std::vector<int64_t> kept_;
  std::optional<EpochLogs> saved_;  // of the last epoch, if it was kept
};

// As Keras checks it, and that it can be filled in.
Status check_filepath(const nlohmann::json& config, const CallbackContext& context) {
  if (config.at("save_freq") != "epoch") {
    return usage_error("save_freq must be 'epoch': states are kept at an epoch's end");
  }
  const auto& filepath = config.at("filepath");
  if (filepath.is_null()) return {};
  if (!filepath.is_string()) return usage_error("filepath must be text, not " + filepath.dump());
  const std::string text = filepath;
  const bool weights_only = config.at("save_weights_only");
  const std::string_view ending = weights_only ? ".weights.h5" : ".keras";
  if (!text.ends_with(ending)) {
    return usage_error(fmt::format("filepath '{}' must end in {}{}", text, ending,
                                   weights_only ? ", since save_weights_only is True" : ""));
  }
  const std::filesystem::path path = std::filesystem::path(text).lexically_normal();
  if (path.is_absolute() || path.begin()->string() == "..") {
    return usage_error(fmt::format("filepath '{}' must be a path inside the output folder", text));
  }
  EpochLogs logs;
  for (const std::string& name : context.names()) logs.values[name] = 0;
  LOCKSTEP_RETURN_IF_ERROR(path_of(text, logs));
  return {};
}

Result<std::unique_ptr<Callback>> make_model_checkpoint(const nlohmann::json& config,
                                                        const CallbackContext& context) {
  const auto& threshold = config.at("initial_value_threshold");
  if (!threshold.is_null() && !threshold.is_number()) {
    return usage_error(
        fmt::format("initial_value_threshold must be a number or null, not {}", threshold.dump()));
  }
  LOCKSTEP_RETURN_IF_ERROR(check_filepath(config, context));
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
          "keeps the checkpoint of the best epoch, or of all epochs, when others go, and with a "
          "filepath writes the model",
          {{"filepath", KeyKind::any, nullptr},
           {"monitor", KeyKind::text, "val_loss"},
           {"mode", KeyKind::text, "auto"},
           {"save_best_only", KeyKind::flag, false},
           {"save_weights_only", KeyKind::flag, false},
           {"save_freq", KeyKind::any, "epoch"},
           {"verbose", KeyKind::integer, 0},
           {"initial_value_threshold", KeyKind::any, nullptr}},
          false,
          make_model_checkpoint};
}

}  // namespace lockstep
