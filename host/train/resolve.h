// From a job's options to the resolved job: data read, model built, all checked against each other.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "host/cluster/coordinator.h"
#include "host/core/result.h"
#include "host/data/dataset.h"
#include "host/graph/graph.h"
#include "host/job/job.h"
#include "host/job/run_options.h"
#include "host/nn/model.h"

namespace lockstep {

using ModelBuilder = std::function<Result<std::unique_ptr<Model>>(
    const std::string& name, const Shape& input_shape, int64_t classes)>;

struct ResolvedJob {
  Job job;
  Graph graph;  // for training
};

// `options` has passed check_option_object with every default filled in.
Result<ResolvedJob> resolve_job(const nlohmann::json& options, const ModelBuilder& build_model);

// What the coordinator must know of it.
ClusterFacts cluster_facts(const ResolvedJob& resolved, const RunOptions& run);

// Whether a trained model can be measured on these rows.
Status check_measured_data(const Job& job, const Dataset& data);

}  // namespace lockstep
