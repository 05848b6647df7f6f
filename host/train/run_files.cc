#include "host/train/run_files.h"

namespace lockstep {
namespace {

// A new file with what counts of the old one, to be appended to.
Result<std::unique_ptr<AppendFile>> open_ledger(FileSystem& files, const RunFilesOptions& options,
                                                Ledger& ledger) {
  if (options.resumed) {
    LOCKSTEP_ASSIGN(const auto size, files.size_of(options.ledger));
    if (size) {
      LOCKSTEP_ASSIGN(const std::string news, files.read(options.ledger));
      LOCKSTEP_RETURN_IF_ERROR(ledger.read(news, options.ledger));
    }
    ledger.go_on_from(options.step);
  }
  LOCKSTEP_RETURN_IF_ERROR(files.write_atomically(options.ledger, ledger.text()));
  ledger.take_news();
  return files.open_append(options.ledger, options.ledger);
}

}  // namespace

Result<RunFiles> RunFiles::open(FileSystem& files, const RunFilesOptions& options,
                                JobReport& report) {
  RunFiles run(report);
  if (!options.digests.empty()) {
    LOCKSTEP_ASSIGN(auto digests, DigestFile::open(options.digests, options.resumed));
    run.digests_.emplace(std::move(digests));
  }
  if (!options.ledger.empty() && report.ledger() != nullptr) {
    LOCKSTEP_ASSIGN(run.ledger_, open_ledger(files, options, *report.ledger()));
  }
  return run;
}

void RunFiles::observe(const CoordinatorAction& action) {
  if (const auto* step = std::get_if<StepDone>(&action)) {
    if (digests_) keep(digests_->put(step->step, step->digest));
  } else if (const auto* restored = std::get_if<Restored>(&action)) {
    if (digests_) keep(digests_->truncate(restored->step));
  } else if (std::holds_alternative<CheckpointDone>(action)) {
    flush();
  }
}

void RunFiles::flush() {
  if (failure_) return;
  if (digests_) keep(digests_->flush());
  if (ledger_) keep(ledger_->append(report_->ledger()->take_news()));
}

void RunFiles::keep(const Status& status) {
  if (!status.ok() && !failure_) failure_ = status.error();
}

}  // namespace lockstep
