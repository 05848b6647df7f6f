#include <fmt/format.h>
#include <fmt/ranges.h>

#include "host/cli/arguments.h"
#include "host/cli/batch_run.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/train/prediction_file.h"
#include "host/train/trained_model.h"

namespace lockstep {
namespace {

std::vector<OptionSpec> predict_options() {
  using enum OptionType;
  return std::vector<OptionSpec>{
             {"model", text, "", "FILE|DIR", "model with weights, or the output folder of a run"},
             {"data", text, "", "PATH|NAME", "the rows: test rows, or all where there is no split"},
             {"output", text, "", "FILE",
              "where to: .npy (float32), .csv (a line a row) or .npz (an array an output)"},
             {"batch_size", integer, 32, "B", "rows of a batch"},
             {"numerics", text, "auto", "NAME", "as of 'train'; the run's, where it is a run"}} +
         batch_run_options();
}

Status predict_to_file(const nlohmann::json& values, Context& context) {
  const std::string output = values.at("output");
  LOCKSTEP_RETURN_IF_ERROR(PredictionFile::check_name(output));
  LOCKSTEP_RETURN_IF_ERROR(check_batch_run(values));
  BatchRun run;
  run.values = values;
  run.task.data = values.at("data");
  if (run.task.data.empty()) return usage_error("--data is missing: say which rows");
  run.task.batch_size = values.at("batch_size");
  if (run.task.batch_size < 1) return usage_error("--batch-size: must be at least 1");
  LOCKSTEP_ASSIGN(const TrainedModelFile trained, read_trained_model(values.at("model")));
  run.task.data_options = trained.data_options;
  run.task.data_options.needs_targets = false;
  LOCKSTEP_ASSIGN(const Dataset dataset,
                  load_dataset(run.task.data, Split::test, run.task.data_options));
  LOCKSTEP_ASSIGN(const ReadyModel ready, trained.make_ready(dataset));
  run.task.model_config = ready.model->config();
  std::string& numerics = run.task.numerics;
  numerics = values.at("numerics");
  if (numerics == "auto" && trained.job) numerics = trained.job->numerics;
  if (numerics == "auto") numerics = default_numerics(values.at("device"), trained.file);
  run.model = &ready;
  run.dataset = &dataset;
  const std::vector<Shape>& shapes = ready.graph.output_shapes;
  LOCKSTEP_ASSIGN(const auto file,
                  PredictionFile::create(output, trained.outputs(), shapes, dataset.rows()));
  LOCKSTEP_RETURN_IF_ERROR(run_batches(std::move(run), *file, context));
  context.signals.end_within(0);  // what is half written must be removed
  LOCKSTEP_RETURN_IF_ERROR(file->save([&] { return go_on(context); }));
  std::vector<std::string> texts;
  for (const Shape& shape : shapes) texts.push_back(to_string(shape));
  fmt::print("{} rows of shape {} in {}\n", dataset.rows(), fmt::join(texts, " and "), output);
  return {};
}

}  // namespace

int run_predict(const Arguments& arguments, Context& context) {
  const auto options = predict_options();
  if (arguments == Arguments{"--help"}) {
    fmt::print("lockstep predict: what a trained model puts out\n\n{}\n{}", options_help(options),
               kBatchRunHelp);
    return 0;
  }
  const auto values = parse_arguments(options, arguments);
  if (!values.ok()) return report_error(values.error());
  return run_interruptible(context, [&] { return predict_to_file(*values, context); });
}

}  // namespace lockstep
