#include <fmt/format.h>

#include <algorithm>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/cli/training.h"
#include "host/job/metric_table.h"
#include "host/nn/model_config.h"
#include "host/train/evaluate.h"

namespace lockstep {
namespace {

struct DemoRun {
  int nodes = 0;
  TrainingOutcome outcome;
  double held_out = 0;  // accuracy
};

Result<double> held_out_accuracy(const TrainingOutcome& outcome) {
  const Job& job = outcome.job;
  LOCKSTEP_ASSIGN(const auto model, model_from_config(job.model_config));
  LOCKSTEP_ASSIGN(const Dataset test, load_dataset(job.data, Split::test));
  LOCKSTEP_ASSIGN(
      const Evaluation evaluation,
      evaluate(job, *model, outcome.weights, test, available_devices("auto", job.numerics),
               [&](int index) { return make_device("auto", job.numerics, index); }));
  return MetricTable(job).values(evaluation.sums)[1];  // of loss and accuracy
}

Result<DemoRun> run_with(int nodes, std::optional<int64_t> kill_at, const nlohmann::json& options,
                         Context& context) {
  fmt::print(stderr, "\n{} node{}{}:\n", nodes, nodes == 1 ? "" : "s",
             kill_at ? fmt::format(", and one of them is killed at step {}", *kill_at) : "");
  TrainingRequest request;
  request.options = options;
  request.run.nodes = {nodes, 1, nodes};
  request.keep_files = false;
  request.kill_node_at_step = kill_at;
  DemoRun run;
  run.nodes = nodes;
  LOCKSTEP_ASSIGN(run.outcome, run_training(request, context));
  LOCKSTEP_ASSIGN(run.held_out, held_out_accuracy(run.outcome));
  return run;
}

// The table; whether all hashes are the same.
bool print_table(const std::vector<DemoRun>& runs) {
  fmt::print("\n{:>5}  {:>8}  {:>8}  {:<25}  weights sha256\n", "nodes", "held-out", "seconds",
             "faults");
  for (const DemoRun& run : runs) {
    const std::string& faults = run.outcome.faults;
    fmt::print("{:>5}  {:>7.2f}%  {:>8.1f}  {:<25}  {}\n", run.nodes, 100 * run.held_out,
               run.outcome.seconds, faults.empty() ? "none" : faults, run.outcome.weights_sha256);
  }
  return std::all_of(runs.begin(), runs.end(), [&](const DemoRun& run) {
    return run.outcome.weights_sha256 == runs[0].outcome.weights_sha256;
  });
}

}  // namespace

int run_demo(const Arguments& arguments, Context& context) {
  if (!arguments.empty()) {
    fmt::print(
        "lockstep demo: trains seed-cnn on generated digits with 2, 1 and 3 nodes, kills one of "
        "the three\nwhile they train, and compares the weights\n");
    return arguments == Arguments{"--help"} ? 0 : 2;
  }
  const auto options =
      parse_arguments(job_options(), {"--model", "seed-cnn", "--data", "digits", "--epochs", "2",
                                      "--numerics", default_numerics("auto")});
  if (!options.ok()) return report_error(options.error());
  fmt::print(stderr,
             "A coordinator and two nodes, separate processes that talk Thrift over loopback, "
             "train seed-cnn on generated digits; then one node; then three, of which one is "
             "killed.\n");
  std::vector<DemoRun> runs;
  for (const int nodes : {2, 1, 3}) {
    std::optional<int64_t> kill_at;
    if (nodes == 3) kill_at = runs[0].outcome.job.steps_per_epoch() / 2;
    auto run = run_with(nodes, kill_at, *options, context);
    if (context.signals.received() != 0) return 128 + context.signals.received();
    if (!run.ok()) return report_error(run.error());
    runs.push_back(std::move(run).value());
  }
  std::sort(runs.begin(), runs.end(),
            [](const DemoRun& a, const DemoRun& b) { return a.nodes < b.nodes; });
  const bool same = print_table(runs);
  fmt::print("{}", same ? "\nThe weights are the same, bit for bit, for 1, 2 and 3 nodes, and with "
                          "one killed.\n"
                        : "\nTHE WEIGHTS DIFFER: the promise is broken.\n");
  fmt::print("weights sha256: {}\n", runs[0].outcome.weights_sha256);
  return same ? 0 : 1;
}

}  // namespace lockstep
