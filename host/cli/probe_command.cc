#include <fmt/format.h>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "rpc/http_server.h"

namespace lockstep {
namespace {

constexpr int kAnswerMs = 3000;

std::vector<OptionSpec> probe_options() {
  return {{"metrics_listen", OptionType::text, "127.0.0.1:9464", "HOST:PORT",
           "where the process serves its metrics"},
          {"path", OptionType::text, "/healthz", "PATH", "what is asked: /healthz or /readyz"}};
}

Result<HttpAnswer> ask(const nlohmann::json& values) {
  LOCKSTEP_ASSIGN(Address address, parse_address(values.at("metrics_listen"), "--metrics-listen"));
  if (address.host == "0.0.0.0") address.host = "127.0.0.1";
  return http_get(address, values.at("path"), kAnswerMs);
}

}  // namespace

int run_probe(const Arguments& arguments, Context&) {
  if (arguments == Arguments{"--help"}) {
    fmt::print("lockstep probe: whether a process on this machine is well, by its exit code\n\n{}",
               options_help(probe_options()));
    return 0;
  }
  const auto values = parse_arguments(probe_options(), arguments);
  if (!values.ok()) return report_error(values.error());
  const auto answer = ask(*values);
  if (!answer.ok()) return report_error(answer.error());
  fmt::print("{}", answer->body);
  return answer->code == 200 ? 0 : 1;
}

}  // namespace lockstep
