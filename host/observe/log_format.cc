#include "host/observe/log_format.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace lockstep {

std::string json_log_line(const LogFields& fields, const std::string& message,
                          std::chrono::system_clock::time_point now) {
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count();
  nlohmann::ordered_json line;
  line["time"] = fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z",
                             fmt::gmtime(std::chrono::system_clock::to_time_t(now)), ms % 1000);
  line["job"] = fields.job;
  line["node"] = fields.node;
  line["term"] = fields.term;
  line["view"] = fields.view;
  line["step"] = fields.step;
  line["message"] = message;
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string short_job(const std::string& recipe_sha256) { return recipe_sha256.substr(0, 12); }

}  // namespace lockstep
