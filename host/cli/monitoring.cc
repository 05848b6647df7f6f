#include "host/cli/monitoring.h"

#include <fmt/format.h>

#include "host/core/suggest.h"
#include "host/observe/prometheus.h"

namespace lockstep {

std::vector<OptionSpec> monitoring_options() {
  using enum OptionType;
  return {{"metrics_listen", text, "", "HOST:PORT",
           "serve /metrics, /healthz and /readyz over HTTP there"},
          {"log_format", text, "text", "text|json", "lines for people, or for machines"}};
}

Result<Monitoring> monitoring_from(const nlohmann::json& values) {
  Monitoring monitoring;
  monitoring.listen = values.at("metrics_listen");
  const std::string format = values.at("log_format");
  if (format != "text" && format != "json") {
    return usage_error(unknown_name_message("log format", format, {"text", "json"}));
  }
  monitoring.json_logs = format == "json";
  return monitoring;
}

Result<std::unique_ptr<HttpServer>> serve_monitoring(const Monitoring& monitoring,
                                                     std::function<std::string()> metrics,
                                                     std::function<bool()> ready) {
  if (monitoring.listen.empty()) return std::unique_ptr<HttpServer>();
  LOCKSTEP_ASSIGN(const Address listen, parse_address(monitoring.listen, "--metrics-listen"));
  auto server = make_http_server(
      listen, [metrics = std::move(metrics), ready = std::move(ready)](const std::string& path) {
        HttpAnswer answer;
        if (path == "/metrics") {
          answer.type = kPrometheusType;
          answer.body = metrics();
        } else if (path == "/healthz") {
          metrics();  // takes the locks that a process that hangs would hold
          answer.body = "ok\n";
        } else if (path == "/readyz") {
          const bool is_ready = ready();
          answer.code = is_ready ? 200 : 503;
          answer.body = is_ready ? "ready\n" : "not ready\n";
        } else {
          answer.code = 404;
          answer.body = "/metrics, /healthz and /readyz are here\n";
        }
        return answer;
      });
  if (server.ok()) return server;
  return Error{fmt::format("--metrics-listen: {}", server.error().message), server.error().kind};
}

}  // namespace lockstep
