// The commands of the program. Each takes its arguments and returns the exit code.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "host/cli/signals.h"
#include "host/runtime/stream.h"

namespace lockstep {

// What main owns and every command may use.
struct Context {
  std::unique_ptr<Network> network;  // this machine's loopback, until a command takes another
  SignalWatcher& signals;
};

using Arguments = std::vector<std::string>;

int run_train(const Arguments& arguments, Context& context);
int run_coordinator(const Arguments& arguments, Context& context);
int run_node(const Arguments& arguments, Context& context);
int run_predict(const Arguments& arguments, Context& context);
int run_evaluate(const Arguments& arguments, Context& context);
int run_convert(const Arguments& arguments, Context& context);
int run_check(const Arguments& arguments, Context& context);
int run_inspect(const Arguments& arguments, Context& context);
int run_diff(const Arguments& arguments, Context& context);
int run_certs(const Arguments& arguments, Context& context);
int run_fetch(const Arguments& arguments, Context& context);
int run_probe(const Arguments& arguments, Context& context);
int run_status(const Arguments& arguments, Context& context);
int run_demo(const Arguments& arguments, Context& context);
int run_bench(const Arguments& arguments, Context& context);

// The program: `arguments` without its name.
int run_program(const Arguments& arguments, Context& context);

// Prints the error with its remedy; returns its exit code.
int report_error(const Error& error);

}  // namespace lockstep
