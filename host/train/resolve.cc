#include "host/train/resolve.h"

#include <fmt/format.h>

#include "host/core/digest.h"
#include "host/job/metric_table.h"
#include "host/job/recipe.h"
#include "host/reduce/layout.h"
#include "host/runtime/node_runtime.h"

namespace lockstep {
namespace {

Status check_validation_classes(const JobData& data) {
  if (data.validation_set.classes <= data.train.classes) return {};
  return usage_error(fmt::format(
      "the validation data has labels up to {}, the training data only up to {}: give data of the "
      "same classes",
      data.validation_set.classes - 1, data.train.classes - 1));
}

}  // namespace

Result<ResolvedJob> resolve_job(const nlohmann::json& options, const ModelBuilder& build_model) {
  ResolvedJob resolved;
  LOCKSTEP_ASSIGN(resolved.job, job_from_options(options));
  Job& job = resolved.job;
  LOCKSTEP_ASSIGN(const JobData data,
                  load_job_data(job.data, job.validation_data, job.validation_split));
  LOCKSTEP_RETURN_IF_ERROR(check_validation_classes(data));
  job.input_shape = data.train.row_shape;
  job.classes = data.train.classes;
  job.train_rows = data.train_rows.size();
  job.validation_rows = data.validation_rows.size();
  job.data_digest = data.train.digest;
  job.validation_digest = data.validation_set.digest;
  LOCKSTEP_ASSIGN(const auto model, build_model(job.model, job.input_shape, job.classes));
  job.model_config = model->config();
  LOCKSTEP_ASSIGN(resolved.graph, model->training_graph(job.loss));
  const std::vector<float> weights = initial_weights(resolved.graph, job.seed);
  job.initial_weights_sha256 = sha256_hex(
      std::string_view(reinterpret_cast<const char*>(weights.data()), weights.size() * 4));
  return resolved;
}

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
  facts.epochs = job.epochs;
  facts.slices = SliceLayout(resolved.graph.flat_size).count();
  facts.metric_sums = MetricTable(job).size();
  facts.numerics = job.numerics;
  facts.data_digest = job.data_digest;
  facts.validation_digest = job.validation_digest;
  facts.version = LOCKSTEP_VERSION;
  return facts;
}

}  // namespace lockstep
