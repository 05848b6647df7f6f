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
#include "host/nn/model_config.h"
#include "host/optim/optimizer.h"
#include "host/reduce/layout.h"
#include "host/runtime/node_runtime.h"
#include "host/runtime/state_file.h"
#include "host/train/epoch_logs.h"

namespace lockstep {
namespace {

constexpr int64_t kMaxClasses = 1 << 20;

// A loss that reads classes needs targets that are classes.
Status check_classes(const Job& job, const JobData& data) {
  if (!reads_classes(job)) return {};
  const char* remedy = "choose another loss, or say with --target what the classes are";
  if (data.train.classes == 0) {
    return usage_error(fmt::format(
        "loss '{}' reads classes, and the targets of '{}' are not whole numbers from 0 on, one a "
        "row: {}",
        loss_name(job.loss), data.train.name, remedy));
  }
  if (data.train.classes > kMaxClasses) {
    return usage_error(
        fmt::format("loss '{}' reads classes, and the targets of '{}' go up to {}: {}",
                    loss_name(job.loss), data.train.name, data.train.classes - 1, remedy));
  }
  if (data.validation_set.rows() > 0 && data.validation_set.classes == 0) {
    return usage_error(fmt::format("the targets of the validation data '{}' are no classes",
                                   data.validation_set.name));
  }
  if (data.validation_set.classes <= data.train.classes) return {};
  return usage_error(fmt::format(
      "the validation data has labels up to {}, the training data only up to {}: give data of the "
      "same classes",
      data.validation_set.classes - 1, data.train.classes - 1));
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

// Of the only target; several lie side by side.
Shape target_shape_of(const Dataset& data) {
  if (data.targets.size() == 1) return data.targets[0].row_shape;
  return {data.target_features()};
}

// A graph reads the targets of a row side by side.
Status check_targets(const Job& job, const Dataset& data) {
  if (!reads_targets(job) || data.target_features() == element_count(job.target_shape)) return {};
  return usage_error(
      fmt::format("the rows of '{}' have {} targets, and those that the model was "
                  "made for {}: say with --target which",
                  data.name, data.target_features(), element_count(job.target_shape)));
}

Status check_weights(const Job& job, const JobData& data) {
  if (job.class_weight.empty() || data.train.targets.size() == 1) return {};
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

// Against what the model of a file puts out; models by name are built for the data.
Status check_file_data(const Graph& graph, const JobData& data, Job* job) {
  if (!reads_classes(*job)) return {};
  const Shape& output = graph.output_shapes.at(0);
  const int64_t classes = output.empty() ? 1 : output.back();
  if (data.train.classes > classes) {
    return usage_error(
        fmt::format("the targets of '{}' are classes up to {}, and the model '{}' has {} outputs",
                    data.train.name, data.train.classes - 1, job->model, classes));
  }
  job->classes = classes;
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
      state->slots.emplace_back(weights.size(), slot.initial_value);
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

Status check_measured_data(const Job& job, const Dataset& data) {
  if (!feeds(data.row_shape, job.input_shape)) {
    return usage_error(fmt::format("the data's rows have the shape {}, the model '{}' takes {}",
                                   to_string(data.row_shape), job.model,
                                   to_string(job.input_shape)));
  }
  if (reads_classes(job) && data.classes == 0) {
    return usage_error(fmt::format("the targets of '{}' are no classes, which loss '{}' reads",
                                   data.name, loss_name(job.loss)));
  }
  if (reads_classes(job) && data.classes > job.classes) {
    return usage_error(fmt::format("the data has labels up to {}, the model {} classes",
                                   data.classes - 1, job.classes));
  }
  return check_targets(job, data);
}

Result<ResolvedJob> resolve_job(const nlohmann::json& options, const ModelBuilder& build_model) {
  ResolvedJob resolved;
  LOCKSTEP_ASSIGN(resolved.job, job_from_options(options));
  Job& job = resolved.job;
  // A file that cannot be used is told before the data is read.
  if (is_model_path(job.model)) {
    LOCKSTEP_ASSIGN(resolved.file, read_model_file(job.model));
    job.inputs = input_names(resolved.file->config);
    if (job.inputs.size() == 1) job.inputs.clear();
  }
  LOCKSTEP_ASSIGN(const JobData data, load_job_data(job, job.data, job.validation_data));
  LOCKSTEP_RETURN_IF_ERROR(check_inputs(job, data.train));
  job.target_shape = target_shape_of(data.train);
  job.weighted = !job.class_weight.empty() || data.train.weights.has_value() ||
                 data.validation_set.weights.has_value();
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
  LOCKSTEP_ASSIGN(resolved.graph, resolved.model->training_graph(objective_of(job)));
  if (resolved.file) LOCKSTEP_RETURN_IF_ERROR(check_file_data(resolved.graph, data, &job));
  if (options.at("partitions") == 0 && normalizes_batches(resolved.graph)) {
    job.partitions = default_partitions(job.batch_size, kLeastRowsOfStatistics);
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
