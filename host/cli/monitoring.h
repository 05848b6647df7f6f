// --metrics-listen and --log-format, and what is served to monitoring systems.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/job/options.h"
#include "rpc/http_server.h"

namespace lockstep {

std::vector<OptionSpec> monitoring_options();

struct Monitoring {
  std::string listen;      // HOST:PORT; "": none
  bool json_logs = false;  // lines of JSON on standard error
};
Result<Monitoring> monitoring_from(const nlohmann::json& values);

// Serves /metrics, /healthz (that the process answers) and /readyz, in plain, to whoever can reach
// the address; null where none is asked for. Both functions are called on the server's threads.
Result<std::unique_ptr<HttpServer>> serve_monitoring(const Monitoring& monitoring,
                                                     std::function<std::string()> metrics,
                                                     std::function<bool()> ready);

}  // namespace lockstep
