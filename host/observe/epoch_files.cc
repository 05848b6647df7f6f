#include "host/observe/epoch_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

namespace lockstep {
namespace {

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Inside the folder, or nothing.
std::optional<std::string> inside(const std::string& folder, const std::string& name) {
  const std::filesystem::path path = std::filesystem::path(name).lexically_normal();
  if (name.empty() || path.is_absolute() || path.begin()->string() == "..") return std::nullopt;
  return folder + "/" + path.string();
}

}  // namespace

Result<EpochFiles> EpochFiles::open(FileSystem& files, const Job& job, const std::string& folder,
                                    const std::string& session, std::string model_json,
                                    const JobReport& report) {
  EpochFiles epoch_files(files, job, std::move(model_json), report);
  epoch_files.session_ = session;
  for (const nlohmann::json& callback : job.callbacks) {
    const std::string name = callback.at("class_name");
    const auto& config = callback.at("config");
    const char* key = name == "CSVLogger"     ? "filename"
                      : name == "TensorBoard" ? "log_dir"
                                              : nullptr;
    if (key == nullptr) continue;
    const auto path = inside(folder, config.at(key));
    if (!path) {
      return usage_error(fmt::format("callback {}: {} '{}' must be a path inside the output folder",
                                     name, key, config.at(key).get<std::string>()));
    }
    if (name == "CSVLogger") {
      epoch_files.csvs_.push_back({*path, config.at("separator")});
    } else {
      epoch_files.boards_.push_back(
          {nullptr, nullptr, *path, config.at("histogram_freq"), config.at("write_graph")});
    }
  }
  return epoch_files;
}

void EpochFiles::observe(const CoordinatorAction& action) {
  const auto* checkpoint = std::get_if<CheckpointDone>(&action);
  if (checkpoint != nullptr && checkpoint->step > 0 && checkpoint->step % steps_per_epoch_ == 0) {
    const int64_t epoch = initial_epoch_ + checkpoint->step / steps_per_epoch_ - 1;
    const bool wanted = std::any_of(boards_.begin(), boards_.end(), [&](const Board& board) {
      return board.wants_histograms(epoch);
    });
    if (wanted) due_.push_back({checkpoint->object, epoch});
  }
  if (failure_ || !std::holds_alternative<EpochRecord>(action)) return;
  const Status written = write(report_->epoch_logs().back());
  if (!written.ok()) failure_ = written.error();
}

Status EpochFiles::write(const EpochLogs& logs) {
  for (const Csv& csv : csvs_) {
    LOCKSTEP_RETURN_IF_ERROR(files_->make_folders(folder_of(csv.path)));
    LOCKSTEP_RETURN_IF_ERROR(
        files_->write_atomically(csv.path, history_csv(report_->epoch_logs(), csv.separator)));
  }
  for (Board& board : boards_) LOCKSTEP_RETURN_IF_ERROR(append_scalars(logs, &board));
  return {};
}

// Keras' folders and tags: train/ and validation/, epoch_loss in both.
Status EpochFiles::append_scalars(const EpochLogs& logs, Board* board) {
  std::map<std::string, double> train;
  std::map<std::string, double> validation;
  for (const auto& [name, value] : logs.values) {
    if (name.starts_with("val_")) {
      validation["epoch_" + name.substr(4)] = value;
    } else {
      train["epoch_" + name] = value;
    }
  }
  for (const bool is_train : {true, false}) {
    const auto& scalars = is_train ? train : validation;
    if (scalars.empty()) continue;
    std::unique_ptr<AppendFile>& file = is_train ? board->train : board->validation;
    if (is_train) {
      LOCKSTEP_RETURN_IF_ERROR(begin_training(board));
    } else if (file == nullptr) {
      LOCKSTEP_ASSIGN(file, begin_event_file(board->folder + "/validation"));
    }
    LOCKSTEP_RETURN_IF_ERROR(file->append(scalar_event(wall_time(), logs.epoch, scalars)));
  }
  return {};
}

// The file of the training, with the model in front.
Status EpochFiles::begin_training(Board* board) {
  if (board->train != nullptr) return {};
  LOCKSTEP_ASSIGN(board->train, begin_event_file(board->folder + "/train"));
  if (!board->write_graph) return {};
  return board->train->append(model_event(wall_time(), model_json_));
}

void EpochFiles::add_histograms(const Due& due, const std::vector<TaggedValues>& weights) {
  for (Board& board : boards_) {
    if (failure_ || !board.wants_histograms(due.epoch)) continue;
    Status written = begin_training(&board);
    if (written.ok()) {
      written = board.train->append(histogram_event(wall_time(), due.epoch, weights));
    }
    if (!written.ok()) failure_ = written.error();
  }
}

Result<std::unique_ptr<AppendFile>> EpochFiles::begin_event_file(const std::string& folder) {
  LOCKSTEP_RETURN_IF_ERROR(files_->make_folders(folder));
  const std::string path = fmt::format("{}/events.out.tfevents.{}", folder, session_);
  LOCKSTEP_ASSIGN(auto file, files_->open_append(path, path));
  LOCKSTEP_RETURN_IF_ERROR(file->append(event_file_begin(wall_time())));
  return file;
}

}  // namespace lockstep
