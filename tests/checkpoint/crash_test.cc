// A job's whole life, stopped after every operation: what was acknowledged is there afterwards,
// and nothing torn is taken for whole.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <optional>

#include "host/checkpoint/lineage.h"
#include "host/checkpoint/object_store.h"
#include "host/checkpoint/record_log.h"
#include "tests/support/crashing_file_system.h"

namespace lockstep {
namespace {

using Records = std::vector<LogRecord>;

constexpr char kLog[] = "run/state/log";
constexpr char kObjects[] = "run/state/objects";
constexpr std::string_view kCheckpoint = "checkpoint ";

std::string state_of(int64_t step) {
  std::string state;
  for (int i = 0; i < 60; ++i) state += static_cast<char>(step * 31 + i * 7);
  return state;
}

// What a caller knows after the script has ended, of itself or by a failure.
struct Told {
  Records records;                 // what the log holds for certain
  std::optional<Records> instead;  // or this, where the last operation on it was not answered
  std::string failure;
};

class Script {
 public:
  Script(CrashingFileSystem& files, Told& told) : files_(files), told_(told) {}

  Status run() {
    LOCKSTEP_ASSIGN(const ObjectStore objects, ObjectStore::open(files_, kObjects));
    LOCKSTEP_ASSIGN(auto opened, RecordLog::open(files_, kLog));
    RecordLog& log = opened.log;
    Lineage lineage(objects, {});
    LOCKSTEP_RETURN_IF_ERROR(append(log, 1, "run"));
    for (const int64_t step : {10, 20}) LOCKSTEP_RETURN_IF_ERROR(commit(log, 1, lineage, step));
    LOCKSTEP_RETURN_IF_ERROR(append(log, 2, "a new term, and a record of some length"));
    LOCKSTEP_RETURN_IF_ERROR(commit(log, 2, lineage, 30));
    LOCKSTEP_RETURN_IF_ERROR(compact(log, 2, lineage));
    LOCKSTEP_RETURN_IF_ERROR(lineage.prune(2, {}));
    LOCKSTEP_RETURN_IF_ERROR(lineage.sweep({}));
    return append(log, 3, "done");
  }

 private:
  Status append(RecordLog& log, uint64_t term, const std::string& body) {
    told_.instead = told_.records;
    told_.instead->push_back({term, log.next_index(), body});
    LOCKSTEP_RETURN_IF_ERROR(log.append(term, body));
    return answered();
  }

  Status commit(RecordLog& log, uint64_t term, Lineage& lineage, int64_t step) {
    LOCKSTEP_ASSIGN(ObjectWriter writer, ObjectStore(files_, kObjects).create());
    const std::string state = state_of(step);
    LOCKSTEP_RETURN_IF_ERROR(writer.append(std::string_view(state).substr(0, 25)));
    LOCKSTEP_RETURN_IF_ERROR(writer.append(std::string_view(state).substr(25)));
    Checkpoint checkpoint;
    checkpoint.recipe_sha256 = std::string(64, 'e');
    checkpoint.step = step;
    checkpoint.parent = lineage.ids().empty() ? "" : lineage.ids().back();
    checkpoint.state_bytes = writer.bytes();
    LOCKSTEP_ASSIGN(checkpoint.state, writer.finish());
    LOCKSTEP_ASSIGN(const std::string id, lineage.commit(checkpoint));
    return append(log, term, std::string(kCheckpoint) + id);
  }

  // The two newest checkpoints stay; the log forgets the others before prune() removes them.
  Status compact(RecordLog& log, uint64_t term, const Lineage& lineage) {
    std::vector<std::string> bodies = {"run"};
    for (size_t i = 1; i < lineage.ids().size(); ++i) {
      bodies.push_back(std::string(kCheckpoint) + lineage.ids()[i]);
    }
    told_.instead.emplace();
    for (const std::string& body : bodies) {
      told_.instead->push_back({term, log.next_index() + told_.instead->size(), body});
    }
    LOCKSTEP_RETURN_IF_ERROR(log.compact(term, bodies));
    return answered();
  }

  Status answered() {
    told_.records = *told_.instead;
    told_.instead.reset();
    return {};
  }

  CrashingFileSystem& files_;
  Told& told_;
};

Told run_script(CrashingFileSystem& files) {
  Told told;
  const Status status = Script(files, told).run();
  if (!status.ok()) told.failure = status.error().message;
  return told;
}

std::vector<std::string> checkpoints_in(const Records& records) {
  std::vector<std::string> ids;
  for (const LogRecord& record : records) {
    if (record.body.starts_with(kCheckpoint)) ids.push_back(record.body.substr(kCheckpoint.size()));
  }
  return ids;
}

Status check_lineage(const ObjectStore& objects, const Records& records) {
  const auto ids = checkpoints_in(records);
  Lineage lineage(objects, ids);
  LOCKSTEP_ASSIGN(const auto newest, lineage.newest_whole());
  if (!newest.notes.empty()) return Error{newest.notes.front().text()};
  if (newest.found.has_value() == ids.empty()) return Error{"no newest checkpoint"};
  if (newest.found) {
    LOCKSTEP_ASSIGN(const std::string state, objects.read(newest.found->checkpoint.state));
    if (state != state_of(newest.found->checkpoint.step)) return Error{"another state"};
    if (newest.found->id != ids.back()) return Error{"an older checkpoint"};
  }
  // Without the log too, every manifest that is there has its state.
  LOCKSTEP_ASSIGN(const auto scanned, Lineage::scan(objects));
  if (!scanned.notes.empty()) return Error{scanned.notes.front().text()};
  for (const std::string& id : scanned.lineage.ids()) {
    LOCKSTEP_ASSIGN(const Checkpoint checkpoint, scanned.lineage.read(id));
    LOCKSTEP_RETURN_IF_ERROR(objects.verify(checkpoint.state));
  }
  LOCKSTEP_RETURN_IF_ERROR(lineage.sweep({}));
  LOCKSTEP_ASSIGN(const auto left, objects.list());
  if (left.size() != 2 * ids.size()) return Error{"objects that nobody names"};
  return {};
}

// Recovers and says what is wrong with what is found.
Status check(CrashingFileSystem& files, const Told& told) {
  LOCKSTEP_ASSIGN(const ObjectStore objects, ObjectStore::open(files, kObjects));
  LOCKSTEP_ASSIGN(auto opened, RecordLog::open(files, kLog));
  if (opened.records != told.records && opened.records != told.instead) {
    return Error{fmt::format("{} records", opened.records.size())};
  }
  for (const Note& note : opened.notes) {
    if (!told.instead) return Error{note.text()};
  }
  for (const std::string& path : files.paths()) {
    if (path.ends_with(".tmp")) return Error{"left over: " + path};
  }
  LOCKSTEP_RETURN_IF_ERROR(check_lineage(objects, opened.records));
  // It can be gone on with, and what it finds now it finds after the next crash too.
  Records records = opened.records;
  LOCKSTEP_ASSIGN(const uint64_t index, opened.log.append(9, "recovered"));
  records.push_back({9, index, "recovered"});
  files.crash();
  LOCKSTEP_ASSIGN(const auto contents, read_log(files, kLog));
  if (contents.records != records) return Error{"other records after the second crash"};
  return {};
}

std::string text_of(const Status& status) { return status.ok() ? "ok" : status.error().message; }

uint64_t operations_of_script() {
  CrashingFileSystem files(0);
  EXPECT_EQ("", run_script(files).failure);
  return files.operations();
}

TEST(Crash, AfterEveryOperation) {
  const uint64_t operations = operations_of_script();
  EXPECT_GT(operations, 60u);
  for (uint64_t count = 0; count <= operations; ++count) {
    for (uint64_t seed = 0; seed < 30; ++seed) {
      CrashingFileSystem files(seed);
      files.stop_after(count);
      const Told told = run_script(files);
      EXPECT_EQ(count == operations, told.failure.empty());
      files.crash();
      ASSERT_EQ("ok", text_of(check(files, told))) << "operation " << count << " seed " << seed;
    }
  }
}

TEST(Crash, OfTheProcessOnly) {
  const uint64_t operations = operations_of_script();
  for (uint64_t count = 0; count <= operations; ++count) {
    CrashingFileSystem files(count);
    files.stop_after(count);
    const Told told = run_script(files);
    files.restart();
    ASSERT_EQ("ok", text_of(check(files, told))) << "operation " << count;
  }
}

TEST(Crash, WhileRecovering) {
  const uint64_t operations = operations_of_script();
  for (uint64_t count = 0; count <= operations; ++count) {
    for (uint64_t second = 0; second < 12; ++second) {
      CrashingFileSystem files(count * 100 + second);
      files.stop_after(count);
      Told told = run_script(files);
      files.crash();
      files.stop_after(second);
      const auto found = RecordLog::open(files, kLog);
      // What one recovery has found the next must find.
      if (found.ok()) told = {found->records, std::nullopt, ""};
      static_cast<void>(ObjectStore::open(files, kObjects));
      files.crash();
      ASSERT_EQ("ok", text_of(check(files, told))) << "operation " << count << ", " << second;
    }
  }
}

TEST(Crash, AfterEveryFailedFsync) {
  CrashingFileSystem whole(0);
  run_script(whole);
  for (uint64_t count = 0; count < whole.syncs(); ++count) {
    for (const bool machine : {true, false}) {
      CrashingFileSystem files(count);
      files.fail_sync_after(count);
      const Told told = run_script(files);
      ASSERT_NE("", told.failure);
      EXPECT_NE(std::string::npos, told.failure.find("Input/output error")) << told.failure;
      EXPECT_EQ(count + 1, files.syncs()) << "it was tried again";
      if (machine) files.crash();
      if (!machine) files.restart();
      ASSERT_EQ("ok", text_of(check(files, told))) << "sync " << count << ", " << machine;
    }
  }
}

TEST(Crash, WithEverySizeOfDisk) {
  for (uint64_t capacity = 0;; capacity += 5) {
    CrashingFileSystem files(capacity);
    files.set_capacity(capacity);
    const Told told = run_script(files);
    if (told.failure.empty()) break;
    ASSERT_NE(std::string::npos, told.failure.find("No space left on device")) << told.failure;
    // Still readable while the disk is full.
    if (files.size_of(kLog)->has_value()) {
      const auto contents = read_log(files, kLog);
      ASSERT_TRUE(contents.ok()) << contents.error().message;
      EXPECT_EQ(told.records, contents->records);
    }
    files.set_capacity(CrashingFileSystem::kNever);
    if (capacity % 2 == 0) files.restart();
    if (capacity % 2 == 1) files.crash();
    ASSERT_EQ("ok", text_of(check(files, told))) << "capacity " << capacity;
  }
}

// These tests must notice where a disk loses what it says it has synced.
TEST(Crash, ALyingDiskIsNoticed) {
  int noticed = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    CrashingFileSystem files(seed);
    files.lie_about_syncs();
    const Told told = run_script(files);
    EXPECT_EQ("", told.failure);
    files.crash();
    if (!check(files, told).ok()) ++noticed;
  }
  EXPECT_GT(noticed, 15);
}

}  // namespace
}  // namespace lockstep
