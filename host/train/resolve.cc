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
#include "host/reduce/layout.h"
#include "host/runtime/node_runtime.h"
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
  if (data.inputs.size() == 1) return {};
  std::vector<std::string> names;
  for (const Field& field : data.inputs) names.push_back(field.name);
  return usage_error(
      fmt::format("'{}' has {} inputs ({}), and the model '{}' takes one: say with "
                  "--target what are targets, and leave out what is neither",
                  data.name, names.size(), fmt::join(names, ", "), job.model));
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

}  // namespace

Status check_measured_data(const Job& job, const Dataset& data) {
  if (data.row_shape != job.input_shape) {
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
  LOCKSTEP_ASSIGN(const JobData data, load_job_data(job, job.data, job.validation_data));
  LOCKSTEP_RETURN_IF_ERROR(check_inputs(job, data.train));
  job.target_shape = target_shape_of(data.train);
  job.weighted = !job.class_weight.empty() || data.train.weights.has_value() ||
                 data.validation_set.weights.has_value();
  LOCKSTEP_RETURN_IF_ERROR(check_classes(job, data));
  LOCKSTEP_RETURN_IF_ERROR(check_weights(job, data));
  if (data.validation_rows.size() > 0)
    LOCKSTEP_RETURN_IF_ERROR(check_targets(job, data.validation()));
  job.input_shape = data.train.row_shape;
  job.classes = data.train.classes;
  job.train_rows = data.train_rows.size();
  job.validation_rows = data.validation_rows.size();
  job.data_digest = data.train.digest;
  job.validation_digest = data.validation_set.digest;
  if (job.classes == 0) {
    return usage_error(fmt::format(
        "model '{}' tells classes apart, and the targets of '{}' are not whole numbers from 0 on, "
        "one a row: say with --target what the classes are",
        job.model, data.train.name));
  }
  LOCKSTEP_ASSIGN(const auto model, build_model(job.model, job.input_shape, job.classes));
  job.model_config = model->config();
  LOCKSTEP_ASSIGN(resolved.graph, model->training_graph(objective_of(job)));
  if (options.at("partitions") == 0 && normalizes_batches(resolved.graph)) {
    job.partitions = default_partitions(job.batch_size, kLeastRowsOfStatistics);
  }
  const std::vector<float> weights = initial_weights(resolved.graph, job.seed);
  job.initial_weights_sha256 = sha256_hex(
      std::string_view(reinterpret_cast<const char*>(weights.data()), weights.size() * 4));
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
