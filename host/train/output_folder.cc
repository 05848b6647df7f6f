#include "host/train/output_folder.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>
#include <filesystem>

#include "host/job/recipe.h"
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

// Whether the run in the folder completed this very job. A shorter run's weights may still be there
// while a longer one goes on.
bool is_completed(const std::string& path, const Job& job) {
  if (!file_exists(path + "/weights.safetensors")) return false;
  const auto report = read_json(path + "/report.json");
  if (!report.ok() || !report->is_object()) return true;
  return report->value("recipe_sha256", "") == recipe_sha256(job) &&
         report->value("status", "") == "completed";
}

Status check_contents(const std::string& path, const Job& job, bool resume) {
  const bool has_weights = file_exists(path + "/weights.safetensors");
  if (is_completed(path, job) || (has_weights && !resume)) {
    return Error{fmt::format(
        "the output folder '{}' holds the weights of a completed run; choose another --output, or "
        "more --epochs (and --resume) to go on from it",
        path)};
  }
  if (!resume && file_exists(OutputFolder::state_path(path) + "/log")) {
    return Error{
        fmt::format("the output folder '{}' holds a run that has not completed; go on with it by "
                    "--resume, or choose another --output",
                    path)};
  }
  return {};
}

}  // namespace

Status check_recipe(const std::string& path, const std::string& what, const std::string& flag,
                    const Job& job, bool resume) {
  if (!file_exists(path + "/job.json")) return {};
  LOCKSTEP_ASSIGN(const auto theirs, read_json(path + "/job.json"));
  const auto differences = recipe_differences(theirs, recipe(job));
  if (differences.empty()) return {};
  const bool only_epochs = differences.size() == 1 && differences[0].key == "epochs";
  const int64_t epochs = theirs.value("epochs", int64_t{0});
  if (only_epochs && resume && epochs < job.epochs) return {};
  std::string remedy = "choose another " + flag;
  if (only_epochs && epochs < job.epochs) remedy += ", or go on to more epochs with --resume";
  return Error{fmt::format("{} '{}' belongs to another recipe ({}); {}", what, path,
                           there_and_here(differences), remedy)};
}

Status write_job(const std::string& path, const Job& job) {
  return write_file_atomically(path + "/job.json", to_json(job).dump(2) + "\n");
}

std::string OutputFolder::default_path(const Job& job) {
  const std::time_t now = std::time(nullptr);
  return fmt::format("lockstep-runs/{:%Y%m%d-%H%M%S}-{}", fmt::localtime(now),
                     std::filesystem::path(job.model).stem().string());
}

Result<OutputFolder> OutputFolder::open(const std::string& path, const Job& job, bool resume) {
  LOCKSTEP_RETURN_IF_ERROR(make_writable_folder(path));
  LOCKSTEP_ASSIGN(auto lock,
                  FileLock::acquire(path + "/.lock", fmt::format("the output folder '{}'", path)));
  LOCKSTEP_RETURN_IF_ERROR(check_recipe(path, "the output folder", "--output", job, resume));
  LOCKSTEP_RETURN_IF_ERROR(check_contents(path, job, resume));
  LOCKSTEP_RETURN_IF_ERROR(write_job(path, job));
  return OutputFolder(path, std::move(lock));
}

Status OutputFolder::write_report(const JobReport& report) const {
  LOCKSTEP_RETURN_IF_ERROR(
      write_file_atomically(path_ + "/history.csv", history_csv(report.epoch_logs(), ",")));
  return write_file_atomically(path_ + "/report.json", report.json().dump(2) + "\n");
}

Status OutputFolder::write_weights(const Graph& graph, const std::string& weights,
                                   const std::string& recipe) const {
  return write_file_atomically(path_ + "/weights.safetensors",
                               to_safetensors(graph.parameters, weights,
                                              {{"format", "lockstep"}, {"recipe_sha256", recipe}}));
}

Status OutputFolder::write_model(const std::string& keras_file) const {
  return write_file_atomically(path_ + "/model.keras", keras_file);
}

Result<nlohmann::json> read_job_json(const std::string& folder) {
  if (!file_exists(folder + "/job.json")) {
    return usage_error(
        fmt::format("'{}' holds no job.json; give the output folder of a run", folder));
  }
  LOCKSTEP_ASSIGN(auto json, read_json(folder + "/job.json"));
  if (!json.is_object()) {
    return Error{fmt::format("'{}/job.json' is damaged: use another folder", folder)};
  }
  return json;
}

Result<Job> read_job(const std::string& folder) {
  LOCKSTEP_ASSIGN(const auto json, read_job_json(folder));
  return job_from_json(json);
}

}  // namespace lockstep
