#include <fmt/format.h>
#include <fmt/ranges.h>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/core/files.h"
#include "host/job/data_job.h"
#include "host/nn/model_config.h"
#include "host/train/replay.h"
#include "host/train/run_difference.h"

namespace lockstep {
namespace {

constexpr const char* kDiffHelp =
    "lockstep diff DIR DIR: where the bits of two runs part\n\n"
    "Says which keys of the recipes differ, and the first step after which the digests of the "
    "states differ. Where\nboth runs have kept a checkpoint of the same later step, it names the "
    "first layer whose weights differ there.\nThen it computes that step again for both, from the "
    "newest states before it: which run recorded what its\njob gives, and in which partitions and "
    "layer the gradients differ. Exit code 0 where all bits are the same,\n1 where not.\n\n";

std::vector<OptionSpec> diff_options() {
  using enum OptionType;
  return {{"data", text, "", "PATH|NAME", "where the data of both is here [where each job says]"},
          {"replay", boolean, true, "", "compute the step again; --no-replay leaves it out"},
          device_options().front()};
}

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

void print_gradients(const Replayed& replayed) {
  if (!replayed.same_partitions) {
    fmt::print("  their batches are not cut alike: no partition is compared\n");
  } else if (!replayed.gradients) {
    fmt::print("  all partitions have the same gradients: it is the update that differs\n");
  } else {
    const GradientDifference& difference = *replayed.gradients;
    fmt::print("  the gradients of {} partitions differ: {}\n", difference.partitions.size(),
               fmt::join(difference.partitions, ", "));
    const std::string where =
        difference.layer.empty()
            ? "in the loss or the metrics alone"
            : fmt::format("first in '{}', {} values, by at most {:.3g}", difference.layer,
                          difference.values, difference.largest);
    fmt::print("  partition {}, rows {} to {} of the batch: {}\n", difference.partitions[0],
               difference.first_row, difference.end_row - 1, where);
  }
}

Status print_replay(FileSystem& files, const Arguments& runs, int64_t step,
                    const nlohmann::json& values) {
  const auto factory = [&](const std::string& numerics) -> DeviceFactory {
    return [kind = values.at("device").get<std::string>(), numerics](int index) {
      return make_device(kind, numerics, index);
    };
  };
  LOCKSTEP_ASSIGN(const Replayed replayed,
                  replay_step(files, runs[0], runs[1], step, values.at("data"), factory));
  fmt::print("step {} computed again:\n", step);
  for (const auto& [run, result] :
       {std::pair(runs[0], replayed.left), std::pair(runs[1], replayed.right)}) {
    fmt::print("  '{}', from its state {}: {}\n", run, result.from,
               result.as_recorded ? "what it recorded"
                                  : "NOT what it recorded: something that is no part of its job "
                                    "changed its state there");
  }
  print_gradients(replayed);
  return {};
}

}  // namespace

int run_diff(const Arguments& arguments, Context&) {
  const auto options = diff_options();
  if (arguments.size() < 2) {
    fmt::print("{}{}", kDiffHelp, options_help(options));
    return arguments == Arguments{"--help"} ? 0 : 2;
  }
  const Arguments runs(arguments.begin(), arguments.begin() + 2);
  const auto values = parse_arguments(options, Arguments(arguments.begin() + 2, arguments.end()));
  if (!values.ok()) return report_error(values.error());
  PosixFileSystem files;
  const auto parameters_of = [](const Job& job) -> Result<std::vector<Parameter>> {
    LOCKSTEP_ASSIGN(const auto model, model_from_config(job.model_config));
    LOCKSTEP_ASSIGN(const Graph graph, model->training_graph(objective_of(job)));
    return graph.parameters;
  };
  const auto difference = compare_runs(files, runs[0], runs[1], parameters_of);
  if (!difference.ok()) return report_error(difference.error());
  print_difference(*difference, runs[0], runs[1]);
  if (difference->step && values->at("replay").get<bool>()) {
    const Status replayed = print_replay(files, runs, *difference->step, *values);
    if (!replayed.ok()) fmt::print("not computed again: {}\n", replayed.error().message);
  }
  return difference->same() ? 0 : 1;
}

}  // namespace lockstep
