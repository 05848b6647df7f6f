#include "host/train/resolve.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "host/core/check.h"
#include "host/core/digest.h"
#include "host/job/data_job.h"
#include "host/job/fit_job.h"
#include "host/job/metric_table.h"
#include "host/job/recipe.h"
#include "host/keras/weights.h"
#include "host/nn/layer.h"
#include "host/nn/model_config.h"
#include "host/optim/optimizer.h"
#include "host/reduce/layout.h"
#include "host/runtime/node_runtime.h"
#include "host/runtime/state_file.h"
#include "host/train/epoch_logs.h"

namespace lockstep {
namespace {

constexpr int64_t kMaxClasses = 1 << 20;

// A loss that reads classes needs targets that are classes: target number `target` of the data.
Status check_classes_of(const OutputObjective& output, size_t target, const JobData& data) {
  const char* remedy = "choose another loss, or say with --target what the classes are";
  const int64_t classes = classes_of(data.train, target);
  const std::string loss = loss_name(output.loss);
  const std::string of_output = output.name.empty() ? "" : " for output '" + output.name + "'";
  if (classes == 0) {
    return usage_error(fmt::format(
        "loss '{}' reads classes, and the targets of '{}'{} are not whole numbers from 0 on, one a "
        "row: {}",
        loss, data.train.name, of_output, remedy));
  }
  if (classes > kMaxClasses) {
    return usage_error(
        fmt::format("loss '{}' reads classes, and the targets of '{}'{} go up to "
                    "{}: {}",
                    loss, data.train.name, of_output, classes - 1, remedy));
  }
  if (data.validation_set.rows() == 0) return {};
  const int64_t validated = classes_of(data.validation_set, target);
  if (validated == 0) {
    return usage_error(fmt::format("the targets of the validation data '{}'{} are no classes",
                                   data.validation_set.name, of_output));
  }
  if (validated <= classes) return {};
  return usage_error(
      fmt::format("the validation data has labels up to {}{}, the training data only up to {}: "
                  "give data of the "
                  "same classes",
                  validated - 1, of_output, classes - 1));
}

Status check_classes(const Job& job, const JobData& data) {
  const auto outputs = asked_outputs(job);
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (reads_classes(*outputs[i]))
      LOCKSTEP_RETURN_IF_ERROR(check_classes_of(*outputs[i], i, data));
  }
  return {};
}

Status check_inputs(const Job& job, const Dataset& data) {
  if (data.inputs.size() == std::max<size_t>(1, job.inputs.size())) return {};
  std::vector<std::string> names;
  for (const Field& field : data.inputs) names.push_back(field.name);
  return usage_error(
      fmt::format("'{}' has {} inputs ({}), and the model '{}' takes {}: say with "
                  "--target what are targets, and leave out what is neither",
                  data.name, names.size(), fmt::join(names, ", "), job.model,
                  job.inputs.size() > 1 ? fmt::format("{}", fmt::join(job.inputs, ", ")) : "one"));
}

// One for each output that is asked for something.
Status check_target_count(const Job& job, const Dataset& data) {
  const size_t asked = asked_outputs(job).size();
  if (job.outputs.size() == 1 && data.weights.size() > 1) {
    return usage_error(fmt::format(
        "'{}' has weights for each of its targets ({}, {}), and the model has one output: give one "
        "array, sample_weight",
        data.name, data.weights[0].name, data.weights[1].name));
  }
  if (job.outputs.size() == 1 || data.targets.size() == asked) return {};
  return usage_error(fmt::format(
      "'{}' has {} targets, and {} outputs of the model have a loss or metrics ({}): give an array "
      "or a column for each, of these names, or say with --target which",
      data.name, data.targets.size(), asked, fmt::join(target_names(job), ", ")));
}

// A graph reads the targets of a row side by side.
Status check_targets(const Job& job, const Dataset& data) {
  if (!reads_targets(job)) return {};
  const auto outputs = asked_outputs(job);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const int64_t wanted = element_count(outputs[i]->target_shape);
    const int64_t found =
        job.outputs.size() == 1 ? data.target_features() : data.targets[i].features();
    if (found == wanted) continue;
    return usage_error(fmt::format(
        "the rows of '{}' have {} targets{}, and those that the model was made for {}: "
        "say with --target which",
        data.name, found, outputs[i]->name.empty() ? "" : " for output '" + outputs[i]->name + "'",
        wanted));
  }
  return {};
}

Status check_weights(const Job& job, const JobData& data) {
  if (job.class_weight.empty()) return {};
  if (job.outputs.size() > 1) {
    return usage_error(fmt::format(
        "--class-weight weighs the classes of a model's only output, and '{}' has {}: leave it "
        "out, or give sample weights",
        job.model, job.outputs.size()));
  }
  if (job.outputs[0].weight_entries > 1) {
    return usage_error(fmt::format(
        "--class-weight weighs rows, and a row of '{}' has {} sample weights: leave one out",
        data.train.name, job.outputs[0].weight_entries));
  }
  if (data.train.targets.size() == 1) return {};
  return usage_error(
      fmt::format("--class-weight weighs the classes of one target, and '{}' has "
                  "{}: leave it out, or give sample weights",
                  data.train.name, data.train.targets.size()));
}

// Rows from which a partition's mean and variance are worth something.
constexpr int64_t kLeastRowsOfStatistics = 16;

bool normalizes_batches(const Graph& graph) {
  return std::any_of(graph.ops.begin(), graph.ops.end(), [](const OpDesc& op) {
    return std::holds_alternative<BatchNormOp>(op.attributes);
  });
}

std::string_view bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

Result<std::shared_ptr<const Model>> model_of(const ResolvedJob& resolved, const Dataset& data,
                                              const ModelBuilder& build_model) {
  const Job& job = resolved.job;
  nlohmann::json config;
  if (resolved.file) {
    if (!resolved.file->has_model()) {
      return usage_error(fmt::format(
          "'{}' holds weights, but no model: give a .keras file, or convert it with the model",
          job.model));
    }
    config = resolved.file->config;
  } else {
    if (data.classes == 0) {
      return usage_error(fmt::format(
          "model '{}' tells classes apart, and the targets of '{}' are not whole numbers from 0 "
          "on, one a row: say with --target what the classes are",
          job.model, data.name));
    }
    LOCKSTEP_ASSIGN(const auto built, build_model(job.model, data.row_shape, data.classes));
    config = built->config();
  }
  LOCKSTEP_ASSIGN(std::shared_ptr<const Model> model, model_from_config(config, input_rows(data)));
  LOCKSTEP_RETURN_IF_ERROR(check_rows(*model, data));
  return model;
}

// Classes must be below what an output of these shapes tells apart.
Status check_class_counts(const Job& job, const std::vector<Shape>& outputs, const Dataset& data) {
  size_t target = 0;
  for (size_t i = 0; i < job.outputs.size(); ++i) {
    if (!job.outputs[i].is_asked()) continue;
    const size_t at = target++;
    if (!reads_classes(job.outputs[i])) continue;
    const int64_t known = outputs.at(i).empty() ? 1 : outputs.at(i).back();
    const int64_t classes = classes_of(data, at);
    if (classes == 0) {
      return usage_error(fmt::format("the targets of '{}' are no classes, which loss '{}' reads",
                                     data.name, loss_name(job.outputs[i].loss)));
    }
    if (classes <= known) continue;
    return usage_error(
        fmt::format("the targets of '{}' are classes up to {}, and the model '{}' tells {} apart{}",
                    data.name, classes - 1, job.model, known,
                    job.outputs[i].name.empty() ? "" : " in output '" + job.outputs[i].name + "'"));
  }
  return {};
}

// Against what the model of a file puts out; models by name are built for the data.
Status check_file_data(const Graph& graph, const JobData& data, Job* job) {
  LOCKSTEP_RETURN_IF_ERROR(check_class_counts(*job, graph.output_shapes, data.train));
  if (job->outputs.size() > 1 || !reads_classes(job->outputs[0])) return {};
  const Shape& output = graph.output_shapes.at(0);
  job->classes = output.empty() ? 1 : output.back();
  return {};
}

Status take_initial_state(ResolvedJob* resolved) {
  Job& job = resolved->job;
  const auto& parameters = resolved->graph.parameters;
  LOCKSTEP_ASSIGN(const auto weights, read_weights(*resolved->file, *resolved->model, parameters));
  LOCKSTEP_ASSIGN(const auto optimizer, Optimizer::create(job.optimizer));
  std::string why_not;
  LOCKSTEP_ASSIGN(auto state,
                  read_optimizer_state(*resolved->file, optimizer, parameters, &why_not));
  if (!why_not.empty()) {
    resolved->notes.push_back(
        fmt::format("the optimizer's state in '{}' is not used: {}", job.model, why_not));
  }
  const bool goes_on = state.has_value();
  if (!goes_on) {
    state.emplace();
    for (const OptimizerSlot& slot : optimizer.slots()) {
      state->slots.push_back(slot.initial(weights));
    }
  }
  StateHeader header;
  header.parameters = resolved->graph.parameter_count;
  header.vectors = 1 + std::ssize(state->slots);
  header.sums = MetricSums(static_cast<size_t>(MetricTable(job).size()));
  std::string& bytes = resolved->initial_state;
  bytes = encode_state_header(header);
  bytes += bytes_of(weights);
  const size_t slots_at = bytes.size();
  for (const auto& slot : state->slots) bytes += bytes_of(slot);
  job.initial_weights_sha256 = sha256_hex(bytes_of(weights));
  if (!goes_on) return {};
  job.optimizer_iterations = state->iterations;
  job.initial_optimizer_sha256 = sha256_hex(std::string_view(bytes).substr(slots_at));
  return {};
}

}  // namespace

bool is_model_path(const std::string& model) {
  return model.find_first_of("./") != std::string::npos;
}

std::vector<Shape> input_rows(const Dataset& data) {
  if (data.inputs.size() == 1) return {data.row_shape};
  std::vector<Shape> rows;
  for (const Field& field : data.inputs) rows.push_back(field.row_shape);
  return rows;
}

bool feeds(const Shape& row, const Shape& input) {
  const auto sizes = [](const Shape& shape) {
    Shape larger;
    std::copy_if(shape.begin(), shape.end(), std::back_inserter(larger),
                 [](int64_t size) { return size != 1; });
    return larger;
  };
  return sizes(row) == sizes(input);
}

Status check_rows(const Model& model, const Dataset& data) {
  if (model.inputs().size() != data.inputs.size()) {
    return usage_error(fmt::format("the model '{}' has {} inputs, and the data '{}' has {}",
                                   model.name(), model.inputs().size(), data.name,
                                   data.inputs.size()));
  }
  const std::vector<Shape> rows = input_rows(data);
  for (size_t i = 0; i < rows.size(); ++i) {
    const Model::Input& input = model.inputs()[i];
    if (feeds(rows[i], input.shape)) continue;
    return usage_error(
        fmt::format("the rows of '{}' have the shape {}, and the model '{}' takes {}: give other "
                    "data, or a model with another input shape",
                    data.name, to_string(rows[i]), model.name(), to_string(input.shape)));
  }
  return {};
}

Status set_target_shapes(const Dataset& data, Job* job) {
  if (job->outputs.size() == 1) {  // several targets lie side by side
    job->outputs[0].target_shape =
        data.targets.size() == 1 ? data.targets[0].row_shape : Shape{data.target_features()};
    return {};
  }
  LOCKSTEP_RETURN_IF_ERROR(check_target_count(*job, data));
  const auto outputs = asked_outputs(job);
  for (size_t i = 0; i < outputs.size(); ++i) {
    outputs[i]->target_shape = data.targets[i].row_shape;
  }
  return {};
}

Status set_weight_entries(const Dataset& data, Job* job) {
  if (data.weights.empty()) return {};
  const auto outputs = asked_outputs(job);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Field& field = data.weights[data.weights.size() == 1 ? 0 : i];
    const int64_t entries = field.features();
    int64_t& known = outputs[i]->weight_entries;
    if (entries == 1 || entries == known) continue;
    if (known != 1) {
      return usage_error(
          fmt::format("'{}' has {} values in '{}' for a row, and the rows that the model is "
                      "trained on {}: give "
                      "as many, or one",
                      data.name, entries, field.name, known));
    }
    known = entries;
  }
  return {};
}

Status set_masks(const Model& model, Job* job) {
  LOCKSTEP_ASSIGN(const std::vector<bool> masked, model.masked_outputs());
  bool any = false;
  for (size_t i = 0; i < std::min(masked.size(), job->outputs.size()); ++i) {
    job->outputs[i].masked = masked[i] && job->outputs[i].is_asked();
    any = any || job->outputs[i].masked;
  }
  if (!any || masked.size() != job->outputs.size()) return {};
  LOCKSTEP_RETURN_IF_ERROR(model.mask_graph(objective_of(*job)));
  return {};
}

Status check_measured_data(const Job& job, const std::vector<Shape>& outputs, const Dataset& data) {
  if (!feeds(data.row_shape, job.input_shape)) {
    return usage_error(fmt::format("the data's rows have the shape {}, the model '{}' takes {}",
                                   to_string(data.row_shape), job.model,
                                   to_string(job.input_shape)));
  }
  LOCKSTEP_RETURN_IF_ERROR(check_target_count(job, data));
  LOCKSTEP_RETURN_IF_ERROR(check_class_counts(job, outputs, data));
  return check_targets(job, data);
}

int default_partitions(const Graph& graph, int64_t batch_size) {
  return normalizes_batches(graph) ? default_partitions(batch_size, kLeastRowsOfStatistics)
                                   : default_partitions(batch_size);
}

Result<Job> job_of_model(const nlohmann::json& options, std::optional<ModelFile>* file) {
  const auto& model = options.at("model");
  if (!model.is_string() || !is_model_path(model)) return job_from_options(options);
  if (!*file) {
    LOCKSTEP_ASSIGN(*file, read_model_file(model));
  }
  return job_from_options(options, output_names((*file)->config));
}

Result<ResolvedJob> resolve_job(const nlohmann::json& options, const ModelBuilder& build_model,
                                std::optional<ModelFile> file) {
  ResolvedJob resolved;
  resolved.file = std::move(file);
  LOCKSTEP_ASSIGN(resolved.job, job_of_model(options, &resolved.file));
  Job& job = resolved.job;
  if (resolved.file) {
    job.inputs = input_names(resolved.file->config);
    if (job.inputs.size() == 1) job.inputs.clear();
  }
  LOCKSTEP_ASSIGN(const JobData data, load_job_data(job, job.data, job.validation_data));
  LOCKSTEP_RETURN_IF_ERROR(check_inputs(job, data.train));
  LOCKSTEP_RETURN_IF_ERROR(set_target_shapes(data.train, &job));
  job.weighted = !job.class_weight.empty() || !data.train.weights.empty() ||
                 !data.validation_set.weights.empty();
  LOCKSTEP_RETURN_IF_ERROR(set_weight_entries(data.train, &job));
  LOCKSTEP_RETURN_IF_ERROR(set_weight_entries(data.validation_set, &job));
  if (data.validation_rows.size() > 0) {
    LOCKSTEP_RETURN_IF_ERROR(check_target_count(job, data.validation()));
  }
  LOCKSTEP_RETURN_IF_ERROR(check_classes(job, data));
  LOCKSTEP_RETURN_IF_ERROR(check_weights(job, data));
  if (data.validation_rows.size() > 0)
    LOCKSTEP_RETURN_IF_ERROR(check_targets(job, data.validation()));
  job.classes = data.train.classes;
  job.train_rows = data.train_rows.size();
  job.validation_rows = data.validation_rows.size();
  job.data_digest = data.train.digest;
  job.validation_digest = data.validation_set.digest;
  LOCKSTEP_ASSIGN(resolved.model, model_of(resolved, data.train, build_model));
  job.model_config = resolved.model->config();
  job.input_shape = job.inputs.empty() ? resolved.model->inputs()[0].shape : data.train.row_shape;
  LOCKSTEP_RETURN_IF_ERROR(set_masks(*resolved.model, &job));
  LOCKSTEP_ASSIGN(resolved.graph, resolved.model->training_graph(objective_of(job)));
  if (resolved.file) LOCKSTEP_RETURN_IF_ERROR(check_file_data(resolved.graph, data, &job));
  if (resolved.file && asks_for_bf16(resolved.file->config) && job.numerics != "cuda-bf16") {
    resolved.notes.push_back(fmt::format(
        "the model's layers ask for mixed_bfloat16: numerics {} compute them in float32 "
        "(--numerics cuda-bf16 rounds)",
        job.numerics));
  }
  if (options.at("partitions") == 0) {
    job.partitions = default_partitions(resolved.graph, job.batch_size);
  }
  if (resolved.file && resolved.file->has_weights()) {
    LOCKSTEP_RETURN_IF_ERROR(take_initial_state(&resolved));
  } else {
    job.initial_weights_sha256 = sha256_hex(bytes_of(initial_weights(resolved.graph, job.seed)));
  }
  return resolved;
}

namespace {

// What the job's callbacks decide.
void add_callbacks(const Job& job, ClusterFacts* facts) {
  if (job.callbacks.empty()) return;
  auto callbacks = job_callbacks(job);
  LOCKSTEP_CHECK(callbacks.ok());  // a job has no other
  facts->learning_rate = callbacks->first_learning_rate(job.initial_epoch);
  facts->decide = [table = std::make_shared<EpochLogTable>(job),
                   all = std::make_shared<Callbacks>(std::move(callbacks).value())](
                      const std::vector<EpochRecord>& before, const EpochDone& done) {
    std::vector<DecidedEpoch> decided;
    for (const EpochRecord& epoch : before) {
      decided.push_back({table->logs(epoch.done), epoch.decision});
    }
    return all->decide(decided, table->logs(done));
  };
}

}  // namespace

ClusterFacts cluster_facts(const ResolvedJob& resolved, const RunOptions& run) {
  const Job& job = resolved.job;
  nlohmann::json json = to_json(job);
  // What nodes must know beside the job.
  json["ledger"] = run.keep_ledger;
  json["checkpoint_every_ms"] = run.checkpoint_every.ms;
  json["checkpoint_every_steps"] = run.checkpoint_every.steps;
  json["verify_every"] = run.verify_every;
  ClusterFacts facts;
  facts.job = json.dump();
  facts.recipe_sha256 = lineage_sha256(job);
  facts.start_nodes = run.nodes.start;
  facts.min_nodes = run.nodes.least;
  facts.max_nodes = run.nodes.most;
  facts.checkpoint_every_ms = run.checkpoint_every.ms;
  facts.checkpoint_every_steps = run.checkpoint_every.steps;
  facts.verify_every = run.verify_every;
  facts.lease_ms = run.lease_ms;
  facts.partitions = job.partitions;
  facts.batch_size = job.batch_size;
  facts.train_rows = job.train_rows;
  facts.validation_rows = job.validation_rows;
  facts.epochs = job.epochs_to_train();
  facts.steps_of_epoch = job.steps_of_epoch;
  facts.first_batch = job.place_of_step(0).batch;
  facts.validates = [job](int64_t epoch) { return job.validates(epoch); };
  add_callbacks(job, &facts);
  facts.slices = SliceLayout(resolved.graph.flat_size).count();
  facts.metric_sums = MetricTable(job).size();
  facts.numerics = job.numerics;
  facts.data_digest = job.data_digest;
  facts.validation_digest = job.validation_digest;
  facts.version = LOCKSTEP_VERSION;
  return facts;
}

}  // namespace lockstep
