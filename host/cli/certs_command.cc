#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "host/cli/arguments.h"
#include "host/cli/commands.h"
#include "host/core/suggest.h"
#include "rpc/certificates.h"

namespace lockstep {
namespace {

constexpr const char* kCertsHelp =
    "lockstep certs: an authority and certificates for one job\n\n{}\n"
    "DIR/coordinator, DIR/node and DIR/operator are what --tls of the coordinator, of nodes, and "
    "of "
    "those who ask is given.\nA second call makes only what is missing. DIR/authority signs: keep "
    "it "
    "away from machines that train.\n\n"
    "A new authority comes in three moves: --rotate trust, --rotate issue, --rotate retire. After "
    "each the new files are\nhanded out; processes that run read them before their next "
    "connection.\n";

std::vector<OptionSpec> certs_options() {
  using enum OptionType;
  return {{"output", text, "", "DIR", "where the folders are, or are made"},
          {"job_name", text, "", "NAME", "whose nodes cannot join a job of another name"},
          {"days", integer, 365, "N", "how long certificates are valid"},
          {"renew", boolean, false, "", "make the roles' certificates anew"},
          {"rotate", text, "", "MOVE", "replace the authority: trust, then issue, then retire"}};
}

Result<std::vector<std::string>> run(const nlohmann::json& values) {
  CertificatesOptions options;
  options.folder = values.at("output");
  options.job = values.at("job_name");
  options.days = static_cast<int>(std::clamp<int64_t>(values.at("days"), 0, 1'000'000));
  options.now = std::time(nullptr);
  if (options.folder.empty()) return usage_error("--output is missing: say which folder");
  if (options.job.empty()) return usage_error("--job-name is missing: give the job a name");
  const std::string move = values.at("rotate");
  const bool renew = values.at("renew");
  if (renew && !move.empty()) return usage_error("--renew and --rotate: give one of them");
  if (renew) return renew_certificates(options);
  if (move.empty()) return make_certificates(options);
  if (move == "trust") return rotate_authority(options, Rotation::trust);
  if (move == "issue") return rotate_authority(options, Rotation::issue);
  if (move == "retire") return rotate_authority(options, Rotation::retire);
  return usage_error(unknown_name_message("move of --rotate", move, {"trust", "issue", "retire"}));
}

}  // namespace

int run_certs(const Arguments& arguments, Context&) {
  if (arguments == Arguments{"--help"}) {
    fmt::print(kCertsHelp, options_help(certs_options()));
    return 0;
  }
  const auto values = parse_arguments(certs_options(), arguments);
  if (!values.ok()) return report_error(values.error());
  const auto lines = run(*values);
  if (!lines.ok()) return report_error(lines.error());
  for (const std::string& line : *lines) fmt::print("{}\n", line);
  return 0;
}

}  // namespace lockstep
