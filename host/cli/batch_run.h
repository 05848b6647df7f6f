// What evaluate and predict have in common: the batches of a data set computed in this process, by
// nodes that it starts, or by nodes that are started elsewhere.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "host/cli/commands.h"
#include "host/core/result.h"
#include "host/data/dataset.h"
#include "host/job/options.h"
#include "host/runtime/batch_task.h"
#include "host/runtime/result_sink.h"
#include "host/train/trained_model.h"

namespace lockstep {

// --nodes, --listen, --device, --devices, --tls and --insecure.
std::vector<OptionSpec> batch_run_options();
// What --help says of them.
inline constexpr const char* kBatchRunHelp =
    "With --nodes the batches are shared by node processes on this machine; with --listen by nodes "
    "of any machine, which\nfetch the weights and read the data themselves. What a node had that "
    "dies is computed by others. The bits are the same\nfor any number of nodes.\n";
// What of them can be refused before anything is read.
Status check_batch_run(const nlohmann::json& values);

struct BatchRun {
  BatchTask task;  // weights_sha256 and data_digest are filled in here
  const ReadyModel* model = nullptr;
  const Dataset* dataset = nullptr;
  nlohmann::json values;  // of the options
};
// The sink has all results when this succeeds.
Status run_batches(BatchRun run, ResultSink& sink, Context& context);

// Runs a command that a signal ends within two seconds, with 130 or 143. The exit code.
int run_interruptible(Context& context, const std::function<Status()>& command);
// An error once a signal has come.
Status go_on(const Context& context);

}  // namespace lockstep
