#include <fmt/format.h>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/runtime/node_runtime.h"

namespace lockstep {
namespace {

constexpr int64_t kMaxSeconds = 604'800;

std::vector<OptionSpec> node_options() {
  using enum OptionType;
  return {
      {"coordinator", text, "127.0.0.1:7070", "HOST:PORT", "the coordinator to join"},
      {"listen", text, "127.0.0.1:0", "HOST:PORT", "where peers reach this node's tensor streams"},
      {"advertise", text, "", "HOST:PORT", "what peers are told [as the coordinator sees it]"},
      {"name", text, "node", "NAME", "a label, for messages and the report"},
      {"data", text, "", "PATH|NAME", "where the data is on this machine [as in the job]"},
      {"validation_data", text, "", "PATH|NAME", "the same for the validation data"},
      {"first_device", integer, 0, "N", "the first of this machine's GPUs that is this node's"},
      {"connect_timeout", integer, 10, "S", "seconds to go on trying to reach the coordinator"},
      {"coordinator_timeout", integer, 1800, "S",
       "seconds to wait for a coordinator that was there and is away"}};
}

Result<int> milliseconds(const nlohmann::json& values, const std::string& key) {
  const int64_t seconds = values.at(key);
  if (seconds >= 0 && seconds <= kMaxSeconds) return static_cast<int>(seconds * 1000);
  const std::string flag = flag_name({key, OptionType::integer, {}, "", ""});
  return usage_error(fmt::format("{} {}: must be between 0 and {}", flag, seconds, kMaxSeconds));
}

Result<NodeOptions> options_from(const nlohmann::json& values) {
  NodeOptions options;
  LOCKSTEP_ASSIGN(options.coordinator, parse_address(values.at("coordinator"), "--coordinator"));
  LOCKSTEP_ASSIGN(options.listen, parse_address(values.at("listen"), "--listen"));
  options.advertise = values.at("advertise");
  if (!options.advertise.empty()) {
    LOCKSTEP_RETURN_IF_ERROR(parse_address(options.advertise, "--advertise").ok()
                                 ? Status{}
                                 : parse_address(options.advertise, "--advertise").error());
  }
  options.name = values.at("name");
  options.data = values.at("data");
  options.validation_data = values.at("validation_data");
  LOCKSTEP_ASSIGN(options.devices, parse_devices(values.at("devices")));
  LOCKSTEP_ASSIGN(options.connect_timeout_ms, milliseconds(values, "connect_timeout"));
  LOCKSTEP_ASSIGN(options.coordinator_away_ms, milliseconds(values, "coordinator_timeout"));
  const std::string kind = values.at("device");
  const int first = values.at("first_device");
  options.available_devices = [kind](const std::string& numerics) {
    return available_devices(kind, numerics);
  };
  // More nodes than GPUs share them.
  options.make_device = [kind, first](const std::string& numerics, int index) {
    return make_device(kind, numerics, (first + index) % available_devices(kind, numerics));
  };
  options.log = [name = options.name](const std::string& line) {
    fmt::print(stderr, "{}: {}\n", name, line);
  };
  return options;
}

}  // namespace

int run_node(const Arguments& arguments, Context& context) {
  const auto known = node_options() + device_options();
  if (arguments == Arguments{"--help"}) {
    fmt::print(
        "lockstep node: trains partitions of a job for its coordinator\n\n{}\n"
        "While the coordinator is away the node goes on as far as it can, then waits. SIGTERM "
        "makes "
        "it hand over its\npartitions and leave with exit code 143.\n",
        options_help(known));
    return 0;
  }
  const auto values = parse_arguments(known, arguments);
  if (!values.ok()) return report_error(values.error());
  auto options = options_from(*values);
  if (!options.ok()) return report_error(options.error());
  const std::string name = options->name;
  NodeRuntime node(std::move(options).value(), context.network);
  context.signals.on_signal([&node](int) { node.stop("stopped by a signal"); });
  const Status status = node.run();
  context.signals.forget_callback();
  if (context.signals.received() != 0) return 128 + context.signals.received();
  if (status.ok()) return 0;
  fmt::print(stderr, "{}: ", name);
  return report_error(status.error());
}

}  // namespace lockstep
