#include "host/train/output_folder.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>

#include "host/keras/safetensors.h"

namespace lockstep {
namespace {

Result<nlohmann::json> read_json(const std::string& path) {
  LOCKSTEP_ASSIGN(const std::string text, read_file(path));
  auto json = nlohmann::json::parse(text, nullptr, false);
  if (json.is_discarded()) {
    return Error{fmt::format("'{}' is not JSON; it is damaged: use another folder", path)};
  }
  return json;
}

// What differs between two recipes: "epochs: 2 there, 3 here".
std::string recipe_difference(const nlohmann::json& theirs, const nlohmann::json& mine) {
  for (const auto& [key, value] : mine.items()) {
    const nlohmann::json other = theirs.value(key, nlohmann::json());
    if (key != "model_config" && other != value) {
      return fmt::format("{}: {} there, {} here", key, other.dump(), value.dump());
    }
  }
  return "the models differ";
}

}  // namespace

std::string OutputFolder::default_path(const Job& job) {
  const std::time_t now = std::time(nullptr);
  return fmt::format("lockstep-runs/{:%Y%m%d-%H%M%S}-{}", fmt::localtime(now), job.model);
}

Result<OutputFolder> OutputFolder::open(const std::string& path, const Job& job) {
  LOCKSTEP_RETURN_IF_ERROR(make_writable_folder(path));
  LOCKSTEP_ASSIGN(auto lock,
                  FileLock::acquire(path + "/.lock", fmt::format("the output folder '{}'", path)));
  if (file_exists(path + "/job.json")) {
    LOCKSTEP_ASSIGN(const auto theirs, read_json(path + "/job.json"));
    if (theirs.value("recipe_sha256", "") != recipe_sha256(job)) {
      return Error{
          fmt::format("the output folder '{}' belongs to another recipe ({}); choose "
                      "another --output",
                      path, recipe_difference(theirs, recipe(job)))};
    }
  }
  if (file_exists(path + "/weights.safetensors")) {
    return Error{
        fmt::format("the output folder '{}' holds the weights of a completed run; choose "
                    "another --output",
                    path)};
  }
  LOCKSTEP_RETURN_IF_ERROR(write_file_atomically(path + "/job.json", to_json(job).dump(2) + "\n"));
  return OutputFolder(path, std::move(lock));
}

Status OutputFolder::write_report(const JobReport& report) const {
  LOCKSTEP_RETURN_IF_ERROR(write_file_atomically(path_ + "/history.csv", report.history_csv()));
  return write_file_atomically(path_ + "/report.json", report.json().dump(2) + "\n");
}

Status OutputFolder::write_weights(const Graph& graph, const std::string& weights,
                                   const std::string& recipe) const {
  return write_file_atomically(path_ + "/weights.safetensors",
                               to_safetensors(graph.parameters, weights,
                                              {{"format", "lockstep"}, {"recipe_sha256", recipe}}));
}

Result<Job> read_job(const std::string& folder) {
  if (!file_exists(folder + "/job.json")) {
    return usage_error(
        fmt::format("'{}' holds no job.json; give the output folder of a run", folder));
  }
  LOCKSTEP_ASSIGN(const auto json, read_json(folder + "/job.json"));
  return job_from_json(json);
}

}  // namespace lockstep
