#include <fmt/format.h>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/job/data_job.h"
#include "host/job/metric_table.h"
#include "host/keras/safetensors.h"
#include "host/train/evaluate.h"
#include "host/train/output_folder.h"
#include "host/train/resolve.h"
#include "models/models.h"

namespace lockstep {
namespace {

std::vector<OptionSpec> evaluate_options() {
  using enum OptionType;
  return {{"model", text, "", "DIR", "output folder of a run"},
          {"data", text, "", "PATH|NAME", "data set whose test files are measured [the job's]"},
          {"batch_size", integer, 0, "B", "rows of a batch [the job's]"}};
}

Result<std::string> evaluate_folder(const nlohmann::json& values) {
  const std::string folder = values.at("model");
  if (folder.empty()) return usage_error("--model is missing: give the output folder of a run");
  LOCKSTEP_ASSIGN(Job job, read_job(folder));
  const int64_t batch_size = values.at("batch_size");
  if (batch_size < 0) return usage_error("--batch-size: must be at least 1");
  if (batch_size > 0) job.batch_size = batch_size;
  const std::string data = values.at("data").get<std::string>();
  LOCKSTEP_ASSIGN(const Dataset dataset,
                  load_dataset(data.empty() ? job.data : data, Split::test, data_options(job)));
  job.weighted = job.weighted || dataset.weights.has_value();
  LOCKSTEP_ASSIGN(const auto model, build_model(job.model, job.input_shape, job.classes));
  LOCKSTEP_ASSIGN(const Graph graph, model->training_graph(objective_of(job)));
  LOCKSTEP_RETURN_IF_ERROR(check_measured_data(job, dataset));
  LOCKSTEP_ASSIGN(const auto weights,
                  read_safetensors(folder + "/weights.safetensors", graph.parameters));
  LOCKSTEP_ASSIGN(int devices, parse_devices(values.at("devices")));
  const std::string kind = values.at("device");
  if (devices == 0) devices = available_devices(kind, job.numerics);
  LOCKSTEP_ASSIGN(const Evaluation evaluation,
                  evaluate(job, *model, weights, dataset, devices,
                           [&](int index) { return make_device(kind, job.numerics, index); }));
  return fmt::format("{} rows - {}", evaluation.rows, MetricTable(job).text(evaluation.sums));
}

}  // namespace

int run_evaluate(const Arguments& arguments, Context&) {
  const auto options = evaluate_options() + device_options();
  if (arguments == Arguments{"--help"}) {
    fmt::print("lockstep evaluate: loss and metrics of trained weights\n\n{}",
               options_help(options));
    return 0;
  }
  const auto values = parse_arguments(options, arguments);
  if (!values.ok()) return report_error(values.error());
  const auto text = evaluate_folder(*values);
  if (!text.ok()) return report_error(text.error());
  fmt::print("{}\n", *text);
  return 0;
}

}  // namespace lockstep
