#include <fmt/format.h>

#include "host/cli/commands.h"
#include "host/core/files.h"
#include "host/job/data_job.h"
#include "host/nn/model_config.h"
#include "host/train/run_difference.h"

namespace lockstep {
namespace {

constexpr const char* kHelp =
    "lockstep diff DIR DIR: where the bits of two runs part\n\n"
    "Says which keys of the recipes differ, and the first step after which the digests of the "
    "states differ. Where\nboth runs have kept a checkpoint of the same later step, it names the "
    "first layer whose weights differ there.\nNothing is computed again: in which partition the "
    "difference began is not said. Exit code 0 where all bits are\nthe same, 1 where not.\n";

void print_layer(const RunDifference& difference) {
  if (!difference.common_after) {
    fmt::print("no later checkpoint in both runs: the layer cannot be told\n");
    return;
  }
  const int64_t step = *difference.common_after;
  if (difference.layer) {
    const LayerDifference& layer = *difference.layer;
    fmt::print(
        "at step {} the first layer that differs is '{}': {} weights, by at most {:.3g}; most of "
        "all differs '{}', by {:.3g}\n",
        step, layer.layer, layer.weights, layer.largest, layer.largest_layer, layer.largest_of_all);
  } else if (difference.optimizer_only) {
    fmt::print("at step {} the weights are the same, the optimizer's vectors differ\n", step);
  } else {
    fmt::print("at step {} the states are the same again, or of different models\n", step);
  }
}

void print_difference(const RunDifference& difference, const std::string& left,
                      const std::string& right) {
  if (!difference.recipe.empty()) fmt::print("the recipes differ:\n");
  for (const RecipeDifference& key : difference.recipe) {
    fmt::print("  {}: {} in '{}', {} in '{}'\n", key.key, key.theirs, left, key.mine, right);
  }
  const int64_t common = std::min(difference.left_steps, difference.right_steps);
  if (difference.step) {
    fmt::print("the states differ first after step {} (of {} steps that both have)\n",
               *difference.step, common);
    if (difference.common_before) {
      fmt::print("both have the checkpoint of step {}, before it\n", *difference.common_before);
    }
    print_layer(difference);
    return;
  }
  if (difference.same()) {
    fmt::print("the same bits for all {} steps\n", common);
  } else {
    fmt::print("the same bits for the {} steps that both have; '{}' has {}, '{}' has {}\n", common,
               left, difference.left_steps, right, difference.right_steps);
  }
  if (difference.compared_steps < common) {
    fmt::print("note: of {} of them a digest is not known: a coordinator was away\n",
               common - difference.compared_steps);
  }
}

}  // namespace

int run_diff(const Arguments& arguments, Context&) {
  if (arguments.size() != 2) {
    fmt::print("{}", kHelp);
    return arguments == Arguments{"--help"} ? 0 : 2;
  }
  PosixFileSystem files;
  const auto parameters_of = [](const Job& job) -> Result<std::vector<Parameter>> {
    LOCKSTEP_ASSIGN(const auto model, model_from_config(job.model_config));
    LOCKSTEP_ASSIGN(const Graph graph, model->training_graph(objective_of(job)));
    return graph.parameters;
  };
  const auto difference = compare_runs(files, arguments[0], arguments[1], parameters_of);
  if (!difference.ok()) return report_error(difference.error());
  print_difference(*difference, arguments[0], arguments[1]);
  return difference->same() ? 0 : 1;
}

}  // namespace lockstep
