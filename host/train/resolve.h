// From a job's options to the resolved job: data read, model built, all checked against each other.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "host/cluster/coordinator.h"
#include "host/core/result.h"
#include "host/data/dataset.h"
#include "host/graph/graph.h"
#include "host/job/job.h"
#include "host/job/run_options.h"
#include "host/keras/model_file.h"
#include "host/nn/model.h"

namespace lockstep {

using ModelBuilder = std::function<Result<std::unique_ptr<Model>>(
    const std::string& name, const Shape& input_shape, int64_t classes)>;

struct ResolvedJob {
  Job job;
  std::shared_ptr<const Model> model;
  Graph graph;                    // for training
  std::optional<ModelFile> file;  // of the model, where the job names one
  // The state from which the job begins, as nodes fetch it; "": each makes it from the seed.
  std::string initial_state;
  std::vector<std::string> notes;  // what of the file is not used, for people
};

// Whether a job's model is a file and no name: it has a dot or a slash.
bool is_model_path(const std::string& model);

// The P of a job that names none.
int default_partitions(const Graph& graph, int64_t batch_size);

// What can be said of a job without its data; reads the model's file, where the job names one that
// has not been read.
Result<Job> job_of_model(const nlohmann::json& options, std::optional<ModelFile>* file);

// `options` has passed check_option_object with every default filled in. `file`: the model's, where
// it has been read.
Result<ResolvedJob> resolve_job(const nlohmann::json& options, const ModelBuilder& build_model,
                                std::optional<ModelFile> file = {});

// What the coordinator must know of it.
ClusterFacts cluster_facts(const ResolvedJob& resolved, const RunOptions& run);

// Options that the model's file brings along, as Keras compiled it: optimizer, loss, metrics. Empty
// where `model` is a name, or not compiled. What else was compiled is told in `notes`.
Result<nlohmann::json> compiled_options(const std::string& model, std::vector<std::string>* notes);
nlohmann::json options_of_compile(const ModelFile& file, std::vector<std::string>* notes);

// The shape of each input's rows.
std::vector<Shape> input_rows(const Dataset& data);

// Whether rows of this shape can be fed to an input: axes of size 1 make no difference.
bool feeds(const Shape& row, const Shape& input);

// Whether the model can be fed the data's rows.
Status check_rows(const Model& model, const Dataset& data);

// What the job's graphs read of the targets, one for each output that is asked for something.
Status set_target_shapes(const Dataset& data, Job* job);

// How many sample weights a row of the data has for each of the job's outputs; where it has one,
// the job keeps the number that it knows. Refuses two numbers.
Status set_weight_entries(const Dataset& data, Job* job);

// Which of the job's outputs carry a mask. Refuses a mask that cannot reach a loss.
Status set_masks(const Model& model, Job* job);

// Whether a trained model that puts out rows of these shapes can be measured on these rows.
Status check_measured_data(const Job& job, const std::vector<Shape>& outputs, const Dataset& data);

}  // namespace lockstep
