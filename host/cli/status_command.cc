#include <fmt/format.h>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/network_options.h"

namespace lockstep {
namespace {

constexpr int kConnectMs = 2000;

Result<std::string> ask(const std::string& where, const nlohmann::json& values, Context& context) {
  LOCKSTEP_ASSIGN(const Address address, parse_address(where, "status"));
  LOCKSTEP_RETURN_IF_ERROR(use_network(values, context, nullptr));
  LOCKSTEP_ASSIGN(const auto client, context.network->connect_control(address, kConnectMs));
  return client->status();
}

}  // namespace

int run_status(const Arguments& arguments, Context& context) {
  const auto options = network_options(false);
  if (arguments.empty() || arguments[0] == "--help") {
    fmt::print("lockstep status HOST:PORT: what a running coordinator is doing, as JSON\n\n{}",
               options_help(options));
    return arguments.empty() ? 2 : 0;
  }
  const auto values = parse_arguments(options, Arguments(arguments.begin() + 1, arguments.end()));
  if (!values.ok()) return report_error(values.error());
  const auto status = ask(arguments[0], *values, context);
  if (!status.ok()) return report_error(status.error());
  fmt::print("{}\n", *status);
  return 0;
}

}  // namespace lockstep
