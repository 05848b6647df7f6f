#include "host/nn/losses.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "host/core/suggest.h"
#include "host/nn/class_config.h"
#include "host/nn/loss_functions.h"

namespace lockstep {
namespace {

const char* const kReductions[] = {"sum_over_batch_size", "mean", "sum", "mean_with_sample_weight"};

// Keras' losses that are not here.
struct RefusedLoss {
  const char* class_name;
  const char* name;
  const char* reason;
};
constexpr RefusedLoss kRefusedLosses[] = {
    {"Dice", "dice", "it is a ratio of sums over the whole batch, and rows are computed apart"},
    {"Tversky", "tversky",
     "it is a ratio of sums over the whole batch, and rows are computed apart"},
    {"Circle", "circle", "it compares the rows of a batch with each other"},
    {"CTC", "ctc", "sequences of unknown alignment are not supported"},
    {"CategoricalGeneralizedCrossEntropy", "categorical_generalized_cross_entropy",
     "it is not supported yet"},
};

Status check_not_refused(const std::string& name) {
  for (const RefusedLoss& refused : kRefusedLosses) {
    if (name != refused.name && name != refused.class_name) continue;
    return usage_error(
        fmt::format("loss '{}' cannot be used: {}; use another loss", name, refused.reason));
  }
  return {};
}

// Values of keys that every loss may have, or several, but which mean something here only as they
// are by default.
Status check_choices(const std::string& name, const nlohmann::json& config) {
  const auto reduction = config.value("reduction", nlohmann::json("sum_over_batch_size"));
  if (reduction.is_null() || reduction == "none") {
    return usage_error(
        fmt::format("loss '{}': reduction {} leaves a value for each row, and training needs one "
                    "for all: use 'sum_over_batch_size'",
                    name, reduction.dump()));
  }
  if (std::find(std::begin(kReductions), std::end(kReductions), reduction) ==
      std::end(kReductions)) {
    return usage_error(fmt::format("loss '{}': unknown reduction {}; known: {}", name,
                                   reduction.dump(), fmt::join(kReductions, ", ")));
  }
  if (config.value("axis", nlohmann::json(-1)) != -1) {
    return usage_error(fmt::format("loss '{}': axis must be -1, the last", name));
  }
  if (!config.value("ignore_class", nlohmann::json()).is_null()) {
    return usage_error(fmt::format(
        "loss '{}': ignore_class is not supported yet; give those rows the weight 0", name));
  }
  const auto smoothing = config.value("label_smoothing", nlohmann::json(0.0));
  if (smoothing.is_number() && !(smoothing >= 0 && smoothing <= 1)) {
    return usage_error(fmt::format("loss '{}': label_smoothing must be between 0 and 1", name));
  }
  return {};
}

}  // namespace

Result<ResolvedLoss> find_loss(const nlohmann::json& loss) {
  const bool is_object = loss.is_object();
  const bool has_name = is_object && loss.contains("class_name") && loss["class_name"].is_string();
  if (!loss.is_string() && !has_name) {
    return usage_error(fmt::format(
        "loss {}: give a name, or {{\"class_name\": \"Huber\", \"config\": {{\"delta\": 0.5}}}}",
        loss.dump()));
  }
  const std::string name = is_object ? loss["class_name"] : loss;
  LOCKSTEP_RETURN_IF_ERROR(check_is_keras("loss " + name, loss));
  LOCKSTEP_RETURN_IF_ERROR(check_not_refused(name));
  ResolvedLoss found;
  found.type = find_loss_type(name);
  if (found.type == nullptr) return usage_error(unknown_name_message("loss", name, loss_names()));
  nlohmann::json config =
      is_object ? loss.value("config", nlohmann::json::object()) : nlohmann::json::object();
  if (!config.is_object()) {
    return usage_error(fmt::format("loss '{}': config is no object of keys", name));
  }
  LOCKSTEP_RETURN_IF_ERROR(check_choices(name, config));
  const nlohmann::json reduction = config.value("reduction", nlohmann::json());
  config.erase("reduction");
  LOCKSTEP_ASSIGN(found.config,
                  resolve_keys(fmt::format("loss '{}'", name), found.type->keys, config));
  // The others are one and the same.
  if (reduction == "sum" || reduction == "mean_with_sample_weight") {
    found.config["reduction"] = reduction;
  }
  return found;
}

std::vector<std::string> loss_names() {
  std::vector<std::string> names;
  for (const LossType& type : loss_types()) names.push_back(type.name());
  return names;
}

Result<nlohmann::json> resolve_loss(const nlohmann::json& loss) {
  LOCKSTEP_ASSIGN(const ResolvedLoss found, find_loss(loss));
  const bool plain = found.type->name() == kSparseCategoricalCrossentropy &&
                     !found.config.at("from_logits").get<bool>() &&
                     !found.config.contains("reduction");
  if (plain) return nlohmann::json(kSparseCategoricalCrossentropy);
  nlohmann::json resolved;
  resolved["class_name"] = found.type->class_name;
  resolved["config"] = found.config;
  return resolved;
}

std::string loss_name(const nlohmann::json& loss) {
  const auto found = find_loss(loss);
  return found.ok() ? found->type->name() : loss.dump();
}

bool is_sparse_loss(const nlohmann::json& loss) {
  const auto found = find_loss(loss);
  return found.ok() && found->type->sparse;
}

}  // namespace lockstep
