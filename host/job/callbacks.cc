#include "host/job/callbacks.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "host/core/check.h"
#include "host/core/suggest.h"
#include "host/job/callback_table.h"
#include "host/nn/class_config.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

Result<CallbackType> callback_type(const std::string& class_name) {
  std::vector<std::string> names;
  for (CallbackType& type : callback_types()) {
    if (type.class_name == class_name) return std::move(type);
    names.push_back(type.class_name);
  }
  return usage_error(unknown_name_message("callback", class_name, names));
}

Error named(const std::string& class_name, const Error& error) {
  return usage_error(fmt::format("callback {}: {}", class_name, error.message));
}

Result<Json> resolve_callback(const Json& callback) {
  const bool is_object = callback.is_object() && callback.contains("class_name") &&
                         callback["class_name"].is_string() &&
                         callback.value("config", Json::object()).is_object();
  if (!is_object) {
    return usage_error(
        fmt::format("a callback is written EarlyStopping(patience=3), or {{\"class_name\": "
                    "\"EarlyStopping\", \"config\": {{\"patience\": 3}}}}, not {}",
                    callback.dump()));
  }
  for (const auto& [key, unused] : callback.items()) {
    const std::vector<std::string> known = {"class_name", "config", "module", "registered_name"};
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    return usage_error("a callback: " + unknown_name_message("key", key, known));
  }
  const std::string class_name = callback["class_name"];
  LOCKSTEP_RETURN_IF_ERROR(check_is_keras("callback " + class_name, callback));
  LOCKSTEP_ASSIGN(const CallbackType type, callback_type(class_name));
  LOCKSTEP_ASSIGN(Json config, resolve_keys("callback " + type.class_name, type.keys,
                                            callback.value("config", Json::object())));
  return Json{{"class_name", type.class_name}, {"config", std::move(config)}};
}

}  // namespace

Result<Json> resolve_callbacks(const Json& list) {
  Json resolved = Json::array();
  for (const Json& each : list) {
    Json callbacks = Json::array({each});
    if (each.is_string()) {
      LOCKSTEP_ASSIGN(callbacks, parse_calls(each));
    }
    for (const Json& callback : callbacks) {
      LOCKSTEP_ASSIGN(Json one, resolve_callback(callback));
      resolved.push_back(std::move(one));
    }
  }
  return resolved;
}

Json deciding_callbacks(const Json& list) {
  Json deciding = Json::array();
  for (const Json& callback : list) {
    const auto type = callback_type(callback.value("class_name", ""));
    if (!type.ok() || type->decides_bits) deciding.push_back(callback);
  }
  return deciding;
}

bool has_callback(const Json& list, const std::string& class_name) {
  return std::any_of(list.begin(), list.end(), [&](const Json& callback) {
    return callback.value("class_name", "") == class_name;
  });
}

Result<Callbacks> Callbacks::create(const Json& list, CallbackContext context) {
  Callbacks callbacks;
  callbacks.list_ = list;
  callbacks.context_ = std::move(context);
  for (const Json& callback : list) {
    LOCKSTEP_ASSIGN(const CallbackType type, callback_type(callback.at("class_name")));
    if (type.make == nullptr) continue;
    const auto made = type.make(callback.at("config"), callbacks.context_);
    if (!made.ok()) return named(type.class_name, made.error());
  }
  return callbacks;
}

std::vector<std::unique_ptr<Callback>> Callbacks::begin() const {
  std::vector<std::unique_ptr<Callback>> callbacks;
  for (const Json& callback : list_) {
    const auto type = callback_type(callback.at("class_name"));
    LOCKSTEP_CHECK(type.ok());
    if (type->make == nullptr) continue;
    auto made = type->make(callback.at("config"), context_);
    LOCKSTEP_CHECK(made.ok());  // create() has tried it
    callbacks.push_back(std::move(made).value());
  }
  return callbacks;
}

std::optional<double> Callbacks::first_learning_rate(int64_t epoch) const {
  CallbackScope scope;
  for (const auto& callback : begin()) callback->epoch_begins(epoch, &scope);
  return scope.rate_was_set ? std::optional<double>(scope.learning_rate) : std::nullopt;
}

Result<std::vector<SavedModel>> Callbacks::saved_models(std::span<const EpochLogs> epochs) const {
  const auto callbacks = begin();
  CallbackScope scope;
  for (const EpochLogs& logs : epochs) {
    for (const auto& callback : callbacks) callback->epoch_ended(logs, &scope);
  }
  std::vector<SavedModel> saved;
  for (const auto& callback : callbacks) {
    LOCKSTEP_ASSIGN(const std::optional<SavedModel> model, callback->saved_model());
    if (model) saved.push_back(*model);
  }
  return saved;
}

// The training until now once more: what callbacks remember follows from it.
EpochDecision Callbacks::decide(const std::vector<DecidedEpoch>& before,
                                const EpochLogs& now) const {
  const auto callbacks = begin();
  CallbackScope scope;
  scope.learning_rate = static_cast<float>(context_.learning_rate);
  const int64_t first = before.empty() ? now.epoch : before.front().logs.epoch;
  for (const auto& callback : callbacks) callback->epoch_begins(first, &scope);
  const auto live = [&](const EpochLogs& logs) {
    scope.stop = false;
    for (const auto& callback : callbacks) callback->epoch_ended(logs, &scope);
    if (scope.stop) return;  // no epoch follows
    for (const auto& callback : callbacks) callback->epoch_begins(logs.epoch + 1, &scope);
  };
  for (const DecidedEpoch& epoch : before) {
    live(epoch.logs);
    // What was decided holds, whoever decided it.
    if (epoch.decision.learning_rate) scope.set_rate(*epoch.decision.learning_rate);
  }
  scope.notes.clear();
  live(now);
  EpochDecision decision;
  decision.stop = scope.stop;
  if (scope.rate_was_set) decision.learning_rate = scope.learning_rate;
  std::set<int64_t> kept;
  for (const auto& callback : callbacks) {
    for (const int64_t epoch : callback->kept_epochs()) kept.insert(epoch);
    const auto restored = callback->restored_epoch();
    if (restored) decision.best = restored;
  }
  decision.keep.assign(kept.begin(), kept.end());
  decision.notes = std::move(scope.notes);
  return decision;
}

}  // namespace lockstep
