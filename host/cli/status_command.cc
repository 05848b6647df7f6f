#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/cli/factories.h"
#include "host/cli/network_options.h"
#include "host/observe/status_table.h"

namespace lockstep {
namespace {

constexpr int kWatchMs = 1000;
constexpr int kLookMs = 50;  // how soon a signal ends a watch
constexpr const char* kClear = "\033[H\033[2J";

std::vector<OptionSpec> status_options() {
  using enum OptionType;
  return std::vector<OptionSpec>{
             {"watch", boolean, false, "", "show it again each second, until Ctrl-C"},
             {"json", boolean, false, "", "as the coordinator says it"}} +
         network_options(false);
}

Result<std::string> page(ControlClient& client, bool json) {
  LOCKSTEP_ASSIGN(const std::string text, client.status());
  if (json) return text + "\n";
  const auto status = nlohmann::json::parse(text, nullptr, false);
  if (!status.is_object()) return Error{"the coordinator's status is not JSON"};
  return status_table(status);
}

Status show(const std::string& where, const nlohmann::json& values, Context& context) {
  LOCKSTEP_ASSIGN(const Address address, parse_address(where, "status"));
  LOCKSTEP_RETURN_IF_ERROR(use_network(values, context, nullptr));
  LOCKSTEP_ASSIGN(const auto client, context.network->connect_control(address, kConnectMs));
  const bool watch = values.at("watch");
  while (true) {
    LOCKSTEP_ASSIGN(const std::string text, page(*client, values.at("json")));
    const bool clears = watch && ::isatty(STDOUT_FILENO) == 1 && values.at("json") == false;
    fmt::print("{}{}", clears ? kClear : "", text);
    std::fflush(stdout);
    for (int waited_ms = 0; watch && waited_ms < kWatchMs; waited_ms += kLookMs) {
      if (context.signals.received() != 0) return {};
      std::this_thread::sleep_for(std::chrono::milliseconds(kLookMs));
    }
    if (!watch) return {};
  }
}

}  // namespace

int run_status(const Arguments& arguments, Context& context) {
  if (arguments.empty() || arguments[0] == "--help") {
    fmt::print("lockstep status HOST:PORT: what a running coordinator is doing\n\n{}",
               options_help(status_options()));
    return arguments.empty() ? 2 : 0;
  }
  const auto values =
      parse_arguments(status_options(), Arguments(arguments.begin() + 1, arguments.end()));
  if (!values.ok()) return report_error(values.error());
  const Status status = show(arguments[0], *values, context);
  if (context.signals.received() != 0) return 128 + context.signals.received();
  return status.ok() ? 0 : report_error(status.error());
}

}  // namespace lockstep
