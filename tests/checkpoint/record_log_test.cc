// The record log: what is found again, what is cut, what is refused, and its bytes.
#include "host/checkpoint/record_log.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/core/digest.h"
#include "tests/support/crashing_file_system.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr size_t kFileHeader = 32;
constexpr size_t kRecordHeader = 32;

class Log : public ::testing::Test {
 protected:
  // The log's records, or the error.
  std::vector<LogRecord> records() {
    auto contents = read_log(files_, "log");
    EXPECT_TRUE(contents.ok()) << contents.error().message;
    return contents.ok() ? contents->records : std::vector<LogRecord>();
  }
  std::string error() {
    const auto contents = read_log(files_, "log");
    EXPECT_EQ(contents.ok(), RecordLog::open(files_, "log").ok());
    return contents.ok() ? "ok" : contents.error().message;
  }
  RecordLog open() {
    auto opened = RecordLog::open(files_, "log");
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    return std::move(opened->log);
  }
  // Three records: "one" and "two" of term 1, "three" of term 2.
  std::string make_three() {
    RecordLog log = open();
    EXPECT_EQ(0u, *log.append(1, "one"));
    EXPECT_EQ(1u, *log.append(1, "two"));
    EXPECT_EQ(2u, *log.append(2, "three"));
    return files_.contents("log");
  }

  CrashingFileSystem files_{1};
};

const LogRecord kOne{1, 0, "one"};
const LogRecord kTwo{1, 1, "two"};
const LogRecord kThree{2, 2, "three"};

TEST_F(Log, FindsItsRecordsAgain) {
  {
    RecordLog log = open();
    EXPECT_EQ(0u, log.term());
    EXPECT_EQ(0u, *log.append(1, "one"));
    EXPECT_EQ(1u, *log.append(1, "two"));
    EXPECT_EQ(1u, log.term());
    EXPECT_EQ(files_.contents("log").size(), log.bytes());
  }
  auto opened = RecordLog::open(files_, "log");
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_THAT(opened->records, ElementsAre(kOne, kTwo));
  EXPECT_THAT(opened->notes, IsEmpty());
  EXPECT_EQ(1u, opened->log.term());
  EXPECT_EQ(2u, opened->log.next_index());
  EXPECT_EQ(2u, *opened->log.append(2, "three"));
  EXPECT_THAT(records(), ElementsAre(kOne, kTwo, kThree));
}

TEST_F(Log, KeepsAnyBytes) {
  std::string every;
  for (int i = 0; i < 256; ++i) every += static_cast<char>(i);
  RecordLog log = open();
  ASSERT_TRUE(log.append(0, "").ok());
  ASSERT_TRUE(log.append(~uint64_t{0}, every).ok());
  EXPECT_THAT(records(), ElementsAre(LogRecord{0, 0, ""}, LogRecord{~uint64_t{0}, 1, every}));
}

// A change of these bytes is a new format: raise the number, and read this one still.
TEST_F(Log, GoldenBytes) {
  make_three();
  std::string hex;
  for (const char c : files_.contents("log")) hex += fmt::format("{:02x}", static_cast<uint8_t>(c));
  EXPECT_EQ(
      "4c6f636b6c6f670a01000000174f48b900000000000000000000000000000000"
      "03000000fd1cdde701000000000000000000000000000000559e5dc121e597456f6e65"
      "030000007173625701000000000000000100000000000000f7939a49ab21d9b574776f"
      "050000008fd053e502000000000000000200000000000000d0c5e9aef8eb5d8a7468726565",
      hex);
}

TEST_F(Log, TheTermNeverGoesBack) {
  RecordLog log = open();
  ASSERT_TRUE(log.append(5, "five").ok());
  EXPECT_THAT(log.append(4, "four").error().message,
              HasSubstr("the log 'log' is at the term 5: a record of the term 4 comes too late"));
  EXPECT_TRUE(log.append(5, "five again").ok());
  EXPECT_FALSE(log.compact(4, {"four"}).ok());
  ASSERT_TRUE(log.compact(6, {}).ok());
  RecordLog again = open();
  EXPECT_EQ(6u, again.term());  // though no record says so
  EXPECT_FALSE(again.append(5, "five").ok());
}

TEST_F(Log, CompactingReplacesAllRecordsAndGoesOnCounting) {
  make_three();
  RecordLog log = open();
  ASSERT_TRUE(log.compact(2, {"sum", "state"}).ok());
  EXPECT_THAT(records(), ElementsAre(LogRecord{2, 3, "sum"}, LogRecord{2, 4, "state"}));
  EXPECT_EQ(5u, *log.append(3, "next"));
  EXPECT_THAT(records(), SizeIs(3));
  ASSERT_TRUE(open().append(3, "and next").ok());
  EXPECT_EQ((LogRecord{3, 6, "and next"}), records().back());
  EXPECT_THAT(files_.paths(), ElementsAre("log"));
}

TEST_F(Log, ATornTailIsCutAndTold) {
  const std::string whole = make_three();
  const size_t last = whole.size() - kRecordHeader - 5;
  for (size_t size = last + 1; size < whole.size(); ++size) {
    files_.put("log", whole.substr(0, size));
    const auto opened = RecordLog::open(files_, "log");
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    EXPECT_THAT(opened->records, ElementsAre(kOne, kTwo));
    ASSERT_THAT(opened->notes, SizeIs(1));
    EXPECT_EQ(fmt::format("'log', {} bytes from offset {}: an append that a crash cut short; left "
                          "out",
                          size - last, last),
              opened->notes[0].text());
    EXPECT_EQ(whole.substr(0, last), files_.contents("log"));
  }
}

TEST_F(Log, ATailOfZerosIsCut) {
  const std::string whole = make_three();
  files_.put("log", whole + std::string(5000, '\0'));
  const auto opened = RecordLog::open(files_, "log");
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_THAT(opened->records, SizeIs(3));
  EXPECT_EQ(5000u, opened->notes.at(0).bytes);
  EXPECT_EQ(whole.size(), opened->notes.at(0).offset);
}

// What was torn may hold what looks like a later record: only a whole one tells of damage.
TEST_F(Log, ATornTailThatLooksLikeARecordIsCut) {
  const std::string whole = make_three();
  ASSERT_TRUE(open().append(2, "four").ok());
  std::string later = files_.contents("log").substr(whole.size());
  files_.put("log", whole + "torn" + later);
  EXPECT_THAT(error(), HasSubstr("with the whole record 3 after it"));
  later.back() ^= 1;
  files_.put("log", whole + "torn" + later);
  EXPECT_THAT(records(), ElementsAre(kOne, kTwo, kThree));
}

// Any damage before the last record is an error, in the last one it looks like a torn append: a
// prefix of the records, never another one.
TEST_F(Log, EveryBit) {
  const std::string whole = make_three();
  const size_t last = whole.size() - kRecordHeader - 5;
  for (size_t at = 0; at < whole.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      files_.put("log", whole);
      files_.flip("log", at, static_cast<uint8_t>(1 << bit));
      const auto contents = read_log(files_, "log");
      if (at < last) {
        ASSERT_FALSE(contents.ok()) << "byte " << at << " bit " << bit;
        EXPECT_THAT(contents.error().message, HasSubstr("'log'"));
        EXPECT_THAT(contents.error().message, HasSubstr("offset "));
      } else {
        ASSERT_TRUE(contents.ok()) << contents.error().message;
        EXPECT_THAT(contents->records, ElementsAre(kOne, kTwo));
        EXPECT_THAT(contents->notes, SizeIs(1));
      }
    }
  }
}

TEST_F(Log, EveryRunOfBytesReplaced) {
  const std::string whole = make_three();
  const size_t last = whole.size() - kRecordHeader - 5;
  for (const char filler : {'\0', '\xff', 'x'}) {
    for (size_t begin = 0; begin < whole.size(); ++begin) {
      std::string damaged = whole;
      const size_t count = std::min<size_t>(20, whole.size() - begin);
      damaged.replace(begin, count, count, filler);
      if (damaged == whole) continue;
      files_.put("log", damaged);
      const auto contents = read_log(files_, "log");
      // Where the last record goes too, nothing valid is left after the damage.
      ASSERT_TRUE(!contents.ok() || begin + count > last) << begin;
      if (!contents.ok()) continue;
      ASSERT_LE(contents->records.size(), 2u) << begin;
      for (const LogRecord& record : contents->records) {
        EXPECT_EQ(record.index == 0 ? kOne : kTwo, record);
      }
    }
  }
}

TEST_F(Log, SaysWhatIsWrongWhereAndWhatToDo) {
  const std::string whole = make_three();
  files_.flip("log", kFileHeader + kRecordHeader, 1);
  EXPECT_EQ(
      "the log 'log' is damaged at offset 32: a broken record, with the whole record 1 after it at "
      "offset 67; restore it from a copy, or move it away to go on from the newest checkpoint",
      error());
  files_.put("log", "");
  EXPECT_THAT(error(), HasSubstr("damaged at offset 0: shorter than its header"));
  files_.put("log", std::string(100, 'x'));
  EXPECT_THAT(error(), HasSubstr("damaged at offset 0: it does not begin as a log"));
  std::string torn = whole;
  torn.erase(kFileHeader, kRecordHeader + 3);  // the first record
  files_.put("log", torn);
  EXPECT_THAT(error(), HasSubstr("damaged at offset 32: record 1 where 0 belongs"));
}

// Bytes whose checksums are right, as another writer would leave them.
TEST_F(Log, RecordsOfAnotherLogAreRefused) {
  make_three();
  const std::string mine = files_.contents("log");
  CrashingFileSystem other(2);
  auto theirs = RecordLog::open(other, "log");
  ASSERT_TRUE(theirs.ok() && theirs->log.append(1, "other").ok());
  ASSERT_TRUE(theirs->log.append(1, "second").ok());
  const size_t one = kRecordHeader + 5;
  const std::string second = other.contents("log").substr(kFileHeader + one);
  files_.put("log", mine.substr(0, kFileHeader + kRecordHeader + 3) + second);
  EXPECT_THAT(error(), HasSubstr("offset 67: record 1 does not follow the one before it"));
}

TEST_F(Log, AnUnknownFormatIsRefused) {
  std::string bytes = make_three();
  bytes[8] = 9;
  const uint32_t begin = crc32c(bytes.data(), 12);
  const uint32_t crc = crc32c(bytes.data() + 16, 16, begin);
  bytes.replace(12, 4, reinterpret_cast<const char*>(&crc), 4);
  files_.put("log", bytes);
  EXPECT_EQ(
      "the log 'log' has the format 9 (offset 8), this version reads 1; use the version of "
      "Lockstep that wrote it",
      error());
}

TEST_F(Log, ATermThatGoesBackIsRefused) {
  std::string bytes = make_three();
  const size_t last = bytes.size() - kRecordHeader - 5;
  bytes[last + 8] = 0;  // its term
  const uint32_t begin = crc32c(bytes.data() + last, 4);
  const uint32_t crc = crc32c(bytes.data() + last + 8, bytes.size() - last - 8, begin);
  bytes.replace(last + 4, 4, reinterpret_cast<const char*>(&crc), 4);
  files_.put("log", bytes);
  EXPECT_THAT(error(), HasSubstr("record 2 has the term 0 after the term 1"));
}

TEST_F(Log, ARecordThatIsTooLongIsRefused) {
  RecordLog log = open();
  EXPECT_FALSE(log.append(1, std::string((64 << 20) + 1, 'x')).ok());
  EXPECT_TRUE(log.append(1, "one").ok());
  EXPECT_THAT(records(), ElementsAre(kOne));
}

TEST_F(Log, AFailedFsyncEndsTheLog) {
  RecordLog log = open();
  ASSERT_TRUE(log.append(1, "one").ok());
  files_.fail_sync_after(0);
  EXPECT_EQ("cannot write 'log': Input/output error", log.append(1, "two").error().message);
  const uint64_t syncs = files_.syncs();
  EXPECT_FALSE(log.append(1, "two").ok());
  EXPECT_FALSE(log.compact(1, {}).ok());
  EXPECT_EQ(syncs, files_.syncs());
}

// Which of the two logs is on the disk is not known, so neither is appended to.
TEST_F(Log, AFailedCompactionEndsTheLog) {
  const std::string whole = make_three();
  RecordLog log = open();
  files_.fail_sync_after(1);  // the folder's, after the file's
  EXPECT_EQ("cannot sync the folder '.': Input/output error",
            log.compact(2, {"sum"}).error().message);
  const uint64_t operations = files_.operations();
  EXPECT_FALSE(log.append(2, "four").ok());
  EXPECT_FALSE(log.compact(2, {"sum"}).ok());
  EXPECT_EQ(operations, files_.operations());
}

// The record of the failed fsync can be read, but is not on the disk, and nothing would put it
// there but writing it anew.
TEST_F(Log, AfterAFailedFsyncTheNextProcessLosesNothingThatItSaw) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    CrashingFileSystem files(seed);
    {
      auto opened = RecordLog::open(files, "log");
      ASSERT_TRUE(opened.ok() && opened->log.append(1, "one").ok());
      files.fail_sync_after(0);
      ASSERT_FALSE(opened->log.append(1, "two").ok());
    }
    files.restart();
    {
      auto opened = RecordLog::open(files, "log");
      ASSERT_TRUE(opened.ok()) << opened.error().message;
      ASSERT_THAT(opened->records, ElementsAre(kOne, kTwo));
      ASSERT_TRUE(opened->log.append(2, "three").ok());
    }
    files.crash();
    const auto contents = read_log(files, "log");
    ASSERT_TRUE(contents.ok()) << contents.error().message;
    EXPECT_THAT(contents->records, ElementsAre(kOne, kTwo, kThree));
  }
}

TEST_F(Log, AFullDiskLeavesTheRecordsBefore) {
  const std::string whole = make_three();
  RecordLog log = open();
  files_.set_capacity(whole.size() + 10);
  EXPECT_THAT(log.append(2, "four").error().message, HasSubstr("No space left on device"));
  EXPECT_FALSE(log.append(2, "").ok());
  EXPECT_THAT(records(), ElementsAre(kOne, kTwo, kThree));
  EXPECT_FALSE(RecordLog::open(files_, "log").ok());  // there is no room to write it anew
  EXPECT_THAT(records(), ElementsAre(kOne, kTwo, kThree));
  files_.set_capacity(CrashingFileSystem::kNever);
  EXPECT_EQ(3u, *open().append(2, "four"));
}

TEST_F(Log, AFullDiskWhileCompactingLeavesTheRecordsBefore) {
  const std::string whole = make_three();
  RecordLog log = open();
  files_.set_capacity(whole.size() + 10);
  EXPECT_FALSE(log.compact(2, {"sum"}).ok());
  EXPECT_THAT(records(), ElementsAre(kOne, kTwo, kThree));
  EXPECT_THAT(files_.paths(), ElementsAre("log"));
}

}  // namespace
}  // namespace lockstep
