// The models that a run writes before its end: of epochs, and for ModelCheckpoint.
#include <fmt/format.h>

#include <cstring>

#include "host/cli/training_run.h"
#include "host/core/files.h"
#include "host/keras/keras_config.h"
#include "host/train/trained_model.h"

namespace lockstep {

// With the learning rate that was decided after so many epochs.
Result<std::string> Training::keras_file(const StateView& state, int64_t epochs) {
  return keras_file_of(resolved_.job, *resolved_.model, resolved_.graph.parameters, state,
                       resolved_.file ? &*resolved_.file : nullptr, learning_rate_after(epochs));
}

// The model as Keras' to_json() says it: as the user's file does, where there is one.
Result<std::string> Training::keras_json() {
  if (resolved_.file && resolved_.file->has_model()) return resolved_.file->config.dump();
  LOCKSTEP_ASSIGN(const auto json, keras_config(*resolved_.model, std::nullopt));
  return json.dump();
}

std::optional<double> Training::learning_rate_after(int64_t epochs) {
  const std::lock_guard lock(mutex_);
  return report_->learning_rate_after(epochs);
}

// OUTPUT/NAME.keras; a state that is gone by now is left out.
Status Training::export_model(const CheckpointDone& checkpoint, int64_t epoch,
                              const std::string& name) {
  const auto bytes = store_.journal().read_state(checkpoint.object);
  if (!bytes.ok()) return {};
  LOCKSTEP_ASSIGN(const StateView state, decode_state(*bytes));
  // What its own end decides may not be known yet.
  LOCKSTEP_ASSIGN(const std::string file, keras_file(state, epoch));
  const std::string path = fmt::format("{}/{}.keras", store_.folder()->path(), name);
  LOCKSTEP_RETURN_IF_ERROR(write_file_atomically(path, file));
  exported_step_ = checkpoint.step;
  if (request_.events == nullptr) return {};
  const std::lock_guard lock(mutex_);
  request_.events->say("model", {{"epoch", epoch}, {"step", checkpoint.step}, {"path", path}});
  return {};
}

// The state in which a signal has ended the job.
Status Training::export_interrupted() {
  const bool wanted = context_.signals.received() != 0 && request_.epoch_models && store_.folder();
  if (!wanted || newest_.step == 0 || newest_.step == exported_step_) return {};
  const int64_t epoch = (newest_.step - 1) / resolved_.job.steps_per_epoch();
  return export_model(newest_, epoch, "interrupted");
}

// The models of epochs that have ended since the last call. Where epochs take less time than this,
// some states are gone by now and left out; the last epoch's may come too late: it is the run's.
Status Training::export_models() {
  if (decider_ || !store_.folder()) return {};
  std::vector<CheckpointDone> checkpoints;
  {
    const std::lock_guard lock(mutex_);
    checkpoints.swap(to_export_);
  }
  const int64_t per_epoch = resolved_.job.steps_per_epoch();
  for (const CheckpointDone& checkpoint : checkpoints) {
    if (checkpoint.step == 0 || checkpoint.step % per_epoch != 0) continue;
    const int64_t number = checkpoint.step / per_epoch;
    LOCKSTEP_RETURN_IF_ERROR(export_model(checkpoint, number - 1, fmt::format("epoch-{}", number)));
  }
  return {};
}

// The histograms of weights that TensorBoard asks for.
Status Training::write_histograms() {
  std::vector<EpochFiles::Due> states;
  {
    const std::lock_guard lock(mutex_);
    if (epoch_files_) states = epoch_files_->take_due();
  }
  for (const EpochFiles::Due& due : states) {
    const auto bytes = store_.journal().read_state(due.object);
    if (!bytes.ok()) {
      say(fmt::format("note: TensorBoard has no histograms of epoch {}: its state is gone already",
                      due.epoch + 1));
      continue;
    }
    LOCKSTEP_ASSIGN(const StateView state, decode_state(*bytes));
    std::vector<float> weights(static_cast<size_t>(state.header.parameters));
    std::memcpy(weights.data(), state.vectors.at(0).data(), state.vectors[0].size());
    std::vector<TaggedValues> tagged;
    for (const Parameter& parameter : resolved_.graph.parameters) {
      tagged.push_back(
          {parameter.path() + "/histogram",
           {weights.data() + parameter.offset, static_cast<size_t>(parameter.count())}});
    }
    const std::lock_guard lock(mutex_);
    epoch_files_->add_histograms(due, tagged);
  }
  return {};
}

// What ModelCheckpoint writes of the states that have become durable since the last call.
Status Training::save_models() {
  std::vector<SavedModels::Due> models;
  {
    const std::lock_guard lock(mutex_);
    if (saved_models_) models = saved_models_->take();
  }
  for (const SavedModels::Due& due : models) {
    const auto bytes = store_.journal().read_state(due.object);
    if (!bytes.ok()) {
      say(fmt::format("note: ModelCheckpoint left out '{}': the state of step {} is gone already",
                      due.path, due.step));
      continue;
    }
    LOCKSTEP_ASSIGN(const StateView state, decode_state(*bytes));
    LOCKSTEP_ASSIGN(const std::string file, due.weights_only
                                                ? weights_file_of(resolved_.job, *resolved_.model,
                                                                  resolved_.graph.parameters, state,
                                                                  learning_rate_after(due.epochs))
                                                : keras_file(state, due.epochs));
    LOCKSTEP_RETURN_IF_ERROR(file_system_.make_folders(folder_of(due.path)));
    LOCKSTEP_RETURN_IF_ERROR(write_file_atomically(due.path, file));
  }
  return {};
}

}  // namespace lockstep
