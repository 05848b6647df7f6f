// What a callback is: a row of the table in callback_table.cc, and what its functions see.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/nn/layer.h"

namespace lockstep {

// What Keras calls logs: "loss", "val_accuracy", those that were measured. As Keras has them they
// are float32 numbers.
struct EpochLogs {
  int64_t index = 0;  // of the epochs that this job trains
  int64_t epoch = 0;  // as Keras counts: from initial_epoch on
  std::map<std::string, double> values;

  std::optional<float> value(const std::string& name) const;
};

// What callbacks may look at and change.
struct CallbackScope {
  float learning_rate = 0;  // the optimizer's
  bool rate_was_set = false;
  bool stop = false;
  std::vector<std::string> notes;

  void set_rate(double rate);
};

// A file of Keras that a callback writes of a state.
struct SavedModel {
  std::string path;  // within the output folder
  bool weights_only = false;
};

// One callback in one training. Its state follows from the calls that it got, and from nothing
// else.
class Callback {
 public:
  virtual ~Callback() = default;
  virtual void epoch_begins(int64_t /*epoch*/, CallbackScope* /*scope*/) {}
  virtual void epoch_ended(const EpochLogs& /*logs*/, CallbackScope* /*scope*/) {}
  // Of which epochs (EpochLogs::index) the last state must be kept.
  virtual std::vector<int64_t> kept_epochs() const { return {}; }
  // What it writes at the end of the epoch that was the last to end; errors name the file.
  virtual Result<std::optional<SavedModel>> saved_model() const { return {std::nullopt}; }
  // The epoch whose weights are restored at the end of the training.
  virtual std::optional<int64_t> restored_epoch() const { return std::nullopt; }
};

// What a callback must know of the job.
struct CallbackContext {
  std::vector<std::string> metrics;  // "loss" first
  bool has_validation = false;
  bool rate_is_schedule = false;  // the optimizer's rate is a function of the step: nobody sets it
  double learning_rate = 0;       // else: what it begins with
  std::vector<std::string> rising = {};  // metrics of which more is better

  // "loss", "val_loss", …
  std::vector<std::string> names() const;
};

// One of Keras' callbacks: one file with a function that returns this, and a line of the table.
struct CallbackType {
  std::string class_name;  // Keras'
  std::string summary;
  std::vector<ConfigKey> keys;
  // Whether the weights depend on it: then it is part of the recipe.
  bool decides_bits = true;
  // The callback at the beginning of a training; errors name what is wrong with the config, whose
  // keys are resolved. nullptr: it only watches, and observe/ has it.
  Result<std::unique_ptr<Callback>> (*make)(const nlohmann::json& config,
                                            const CallbackContext& context) = nullptr;
};

// A whole number of at least `least`, or an error that names the key.
Result<int64_t> whole_number(const nlohmann::json& config, const char* key, int64_t least);

// An error where the optimizer's rate is a schedule: Keras lets nobody set it then.
Status check_rate_is_settable(const CallbackContext& context);

// The quantity that a callback watches, and what counts as better; the keys monitor, mode and
// min_delta.
class Monitor {
 public:
  // Errors name the quantities that there are.
  static Result<Monitor> create(const nlohmann::json& config, const CallbackContext& context);

  const std::string& name() const { return name_; }
  // By more than min_delta. Everything is better than nothing; a NaN is not better than a number,
  // nor the reverse.
  bool improves(float value, std::optional<float> than) const;

 private:
  std::string name_;
  bool rises_ = false;  // the larger the better
  double min_delta_ = 0;
};

std::vector<ConfigKey> monitor_keys();

}  // namespace lockstep
