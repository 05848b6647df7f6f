#include <fmt/format.h>

#include "host/cli/arguments.h"
#include "host/cli/batch_run.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/job/data_job.h"
#include "host/job/metric_table.h"
#include "host/observe/events.h"
#include "host/train/evaluate.h"
#include "host/train/resolve.h"
#include "host/train/trained_model.h"

namespace lockstep {
namespace {

constexpr int kEventsMs = 1000;  // for a slow reader

std::vector<OptionSpec> evaluate_options() {
  using enum OptionType;
  return std::vector<OptionSpec>{
             {"model", text, "", "FILE|DIR", "model with weights, or the output folder of a run"},
             {"data", text, "", "PATH|NAME", "data set whose test files are measured [the run's]"},
             {"batch_size", integer, 0, "B", "rows of a batch [the run's, or 32]"},
             {"loss", outputs, nullptr, "NAME|JSON", "of a file [what it was compiled with]"},
             {"loss_weights", outputs, nullptr, "JSON", "of a file [what it was compiled with]"},
             {"metrics", outputs, nullptr, "NAMES|JSON", "of a file [what it was compiled with]"},
             {"weighted_metrics", outputs, nullptr, "NAMES|JSON",
              "of a file [what it was compiled with]"},
             {"target", list, nlohmann::json::array(), "NAMES",
              "columns or arrays that are the targets [the run's; the last column; y]"},
             {"numerics", text, "auto", "NAME", "as of 'train' [the run's]"},
             {"events", text, "", "FD",
              "tell the result in a line of JSON too: -, or a descriptor"}} +
         batch_run_options();
}

// What is measured of a file: what it was compiled with, unless something else is asked for.
Result<Job> job_of_file(const TrainedModelFile& trained, const nlohmann::json& values) {
  nlohmann::json options = default_values(job_options());
  std::vector<std::string> notes;
  LOCKSTEP_ASSIGN(const auto compiled, compiled_options(trained.path, &notes));
  options.update(compiled);
  for (const std::string& note : notes) fmt::print(stderr, "note: {}\n", note);
  for (const char* key :
       {"data", "loss", "loss_weights", "metrics", "weighted_metrics", "target"}) {
    if (!values.at(key).is_null()) options[key] = values.at(key);
  }
  options["model"] = trained.path;
  options["optimizer"] = "adam";  // nothing is updated
  const std::string numerics = values.at("numerics");
  options["numerics"] =
      numerics == "auto" ? default_numerics(values.at("device"), trained.file) : numerics;
  std::optional<ModelFile> file;
  LOCKSTEP_ASSIGN(Job job, job_of_model(options, &file));
  job.inputs = trained.data_options.inputs;
  return job;
}

// What the data of a file's job says of its targets; a run knows it.
Status complete_job(const Dataset& dataset, const ReadyModel& ready, Job* job) {
  job->input_shape = job->inputs.empty() ? ready.model->inputs()[0].shape : dataset.row_shape;
  LOCKSTEP_RETURN_IF_ERROR(set_target_shapes(dataset, job));
  job->model_config = ready.model->config();
  LOCKSTEP_RETURN_IF_ERROR(set_masks(*ready.model, job));
  const Shape& output = ready.graph.output_shapes.at(0);
  job->classes = output.empty() ? 1 : output.back();
  return {};
}

// Tells the result, in full to a program that reads events.
Status tell(const Job& job, int64_t rows, const MetricSums& sums, const std::string& target) {
  const MetricTable table(job);
  if (!target.empty()) {
    LOCKSTEP_ASSIGN(EventStream events, EventStream::open(target));
    nlohmann::json logs = nlohmann::json::object();
    const std::vector<double> values = table.values(sums);
    for (size_t i = 0; i < values.size(); ++i) logs[table.names()[i]] = values[i];
    events.say("evaluation",
               {{"rows", rows}, {"metrics", table.names()}, {"logs", std::move(logs)}});
    LOCKSTEP_RETURN_IF_ERROR(events.finish(kEventsMs));
  }
  fmt::print("{} rows - {}\n", rows, table.text(sums));
  return {};
}

Status evaluate_model(const nlohmann::json& values, Context& context) {
  LOCKSTEP_RETURN_IF_ERROR(check_batch_run(values));
  LOCKSTEP_ASSIGN(const TrainedModelFile trained, read_trained_model(values.at("model")));
  Job job;
  if (trained.job) {
    job = *trained.job;
  } else {
    LOCKSTEP_ASSIGN(job, job_of_file(trained, values));
  }
  const int64_t batch_size = values.at("batch_size");
  if (batch_size < 0) return usage_error("--batch-size: must be at least 1");
  if (batch_size > 0) job.batch_size = batch_size;
  const std::string data = values.at("data").get<std::string>();
  LOCKSTEP_ASSIGN(const Dataset dataset,
                  load_dataset(data.empty() ? job.data : data, Split::test, data_options(job)));
  job.weighted = job.weighted || !dataset.weights.empty();
  LOCKSTEP_ASSIGN(const ReadyModel ready, trained.make_ready(dataset));
  if (!trained.job) LOCKSTEP_RETURN_IF_ERROR(complete_job(dataset, ready, &job));
  LOCKSTEP_RETURN_IF_ERROR(set_weight_entries(dataset, &job));
  LOCKSTEP_RETURN_IF_ERROR(check_measured_data(job, ready.graph.output_shapes, dataset));
  BatchRun run;
  run.task.measured = job;
  run.task.model_config = ready.model->config();
  run.task.data = data.empty() ? job.data : data;
  run.task.data_options = data_options(job);
  run.task.batch_size = job.batch_size;
  run.task.numerics = job.numerics;
  run.model = &ready;
  run.dataset = &dataset;
  run.values = values;
  EvaluationSums sums(MetricTable(job).size());
  LOCKSTEP_RETURN_IF_ERROR(run_batches(std::move(run), sums, context));
  return tell(job, dataset.rows(), sums.total(), values.at("events"));
}

}  // namespace

int run_evaluate(const Arguments& arguments, Context& context) {
  const auto options = evaluate_options();
  if (arguments == Arguments{"--help"}) {
    fmt::print("lockstep evaluate: loss and metrics of trained weights\n\n{}\n{}",
               options_help(options), kBatchRunHelp);
    return 0;
  }
  const auto values = parse_arguments(options, arguments);
  if (!values.ok()) return report_error(values.error());
  return run_interruptible(context, [&] { return evaluate_model(*values, context); });
}

}  // namespace lockstep
