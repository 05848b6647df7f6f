#include <fmt/format.h>

#include "host/cli/commands.h"
#include "host/core/suggest.h"

namespace lockstep {
namespace {

struct Command {
  const char* name;
  const char* help;
  int (*run)(const Arguments&, Context&);
};

constexpr Command kCommands[] = {
    {"train", "train a model with any number of nodes on this machine", run_train},
    {"coordinator", "lead a job whose nodes are started elsewhere", run_coordinator},
    {"node", "compute a part of what a coordinator trains, measures or predicts", run_node},
    {"evaluate", "loss and metrics of trained weights", run_evaluate},
    {"predict", "what a trained model puts out for rows of data", run_predict},
    {"inspect", "what is in a model, or in the folder of a run, every hash verified", run_inspect},
    {"check", "whether a job can be trained, and what it takes, without training", run_check},
    {"convert", "a model's file in another form", run_convert},
    {"diff", "where the bits of two runs part", run_diff},
    {"certs", "make and replace the certificates of a job", run_certs},
    {"status", "what a running coordinator is doing", run_status},
    {"fetch", "the newest model of a running coordinator", run_fetch},
    {"probe", "whether a process on this machine is well, for health checks", run_probe},
    {"demo", "one, two and three nodes train to the same bits, one is killed", run_demo},
    {"bench", "measure this build; prints one line of JSON", run_bench},
};

void print_help() {
  fmt::print("lockstep {}: trains Keras models on any number of nodes to the same bits\n\n",
             LOCKSTEP_VERSION);
  for (const Command& command : kCommands) {
    fmt::print("  lockstep {:<12} {}\n", command.name, command.help);
  }
  fmt::print(
      "\n'lockstep COMMAND --help' lists a command's flags. LOCKSTEP_<FLAG> in the environment "
      "stands for a flag.\nExit codes: 0 done, 1 failed, 2 usage, 3 halted, 4 refused to join, "
      "130 and 143 by signal.\n");
}

}  // namespace

int report_error(const Error& error) {
  fmt::print(stderr, "error: {}\n", error.message);
  return static_cast<int>(error.kind);
}

int run_program(const Arguments& arguments, Context& context) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "help") {
    print_help();
    return arguments.empty() ? 2 : 0;
  }
  if (arguments[0] == "--version") {
    fmt::print("lockstep {}\n", LOCKSTEP_VERSION);
    return 0;
  }
  std::vector<std::string> known;
  for (const Command& command : kCommands) {
    if (arguments[0] == command.name) {
      return command.run(Arguments(arguments.begin() + 1, arguments.end()), context);
    }
    known.push_back(command.name);
  }
  return report_error(usage_error(unknown_name_message("command", arguments[0], known)));
}

}  // namespace lockstep
