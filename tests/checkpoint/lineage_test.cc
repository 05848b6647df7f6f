// The lineage: what is gone on from, and what may be removed.
#include "host/checkpoint/lineage.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/checkpoint/inspect.h"
#include "tests/support/crashing_file_system.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

using Ids = std::vector<std::string>;

class Lineages : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(ObjectStore::open(files_, "run/objects").ok()); }

  Checkpoint checkpoint(int64_t step, const std::string& state, const std::string& parent) const {
    Checkpoint checkpoint;
    checkpoint.recipe_sha256 = std::string(64, 'e');
    checkpoint.step = step;
    checkpoint.parent = parent;
    checkpoint.state = sha256_hex(state);
    checkpoint.state_bytes = state.size();
    checkpoint.state_digest = "00ff";
    checkpoint.accumulators = {static_cast<double>(step)};
    return checkpoint;
  }
  // Puts the state and commits the checkpoint.
  std::string commit(int64_t step, const std::string& state, const std::string& parent) {
    EXPECT_TRUE(objects_.put(state).ok());
    const auto id = lineage_.commit(checkpoint(step, state, parent));
    EXPECT_TRUE(id.ok()) << id.error().message;
    return id.ok() ? *id : "";
  }
  Ids commit_chain(int count) {
    Ids ids;
    for (int i = 1; i <= count; ++i) {
      ids.push_back(commit(10 * i, fmt::format("state {}", i), ids.empty() ? "" : ids.back()));
    }
    return ids;
  }
  std::string path(const std::string& id) const { return objects_.path(id); }
  std::string state_path(const std::string& id) const { return path(lineage_.read(id)->state); }
  Lineage::Newest newest() const {
    auto newest = lineage_.newest_whole();
    EXPECT_TRUE(newest.ok()) << newest.error().message;
    return newest.ok() ? *newest : Lineage::Newest();
  }
  Ids objects() const { return *objects_.list(); }

  CrashingFileSystem files_{1};
  ObjectStore objects_{files_, "run/objects"};
  Lineage lineage_{objects_, {}};
};

TEST_F(Lineages, FindTheNewest) {
  EXPECT_FALSE(newest().found.has_value());
  const Ids ids = commit_chain(3);
  EXPECT_EQ(ids, lineage_.ids());
  const auto found = newest();
  ASSERT_TRUE(found.found.has_value());
  EXPECT_EQ(ids[2], found.found->id);
  EXPECT_EQ(checkpoint(30, "state 3", ids[1]), found.found->checkpoint);
  EXPECT_THAT(found.notes, IsEmpty());
}

TEST_F(Lineages, AreFoundInTheObjects) {
  const Ids ids = commit_chain(12);
  ASSERT_TRUE(objects_.put("{ not a manifest").ok());
  ASSERT_TRUE(objects_.put("{}").ok());
  ASSERT_TRUE(objects_.put(R"({"format": 1})").ok());
  auto scanned = Lineage::scan(objects_);
  ASSERT_TRUE(scanned.ok()) << scanned.error().message;
  EXPECT_EQ(ids, scanned->lineage.ids());
  EXPECT_THAT(scanned->notes, IsEmpty());
  files_.flip(path(ids[11]), 3, 4);
  scanned = Lineage::scan(objects_);
  EXPECT_EQ(Ids(ids.begin(), ids.end() - 1), scanned->lineage.ids());
  ASSERT_THAT(scanned->notes, SizeIs(1));
  EXPECT_EQ(path(ids[11]), scanned->notes[0].path);
}

TEST_F(Lineages, RefuseACheckpointWithoutItsStateOrParent) {
  EXPECT_THAT(lineage_.commit(checkpoint(10, "nowhere", "")).error().message,
              HasSubstr("write the state first"));
  ASSERT_TRUE(objects_.put("state").ok());
  Checkpoint strange = checkpoint(10, "state", "");
  strange.state_bytes = 4;
  EXPECT_THAT(lineage_.commit(strange).error().message, HasSubstr("with 4 bytes is not there"));
  strange = checkpoint(10, "state", sha256_hex("unknown"));
  EXPECT_THAT(lineage_.commit(strange).error().message, HasSubstr("which is not known"));
  strange = checkpoint(-1, "state", "");
  EXPECT_THAT(lineage_.commit(strange).error().message, HasSubstr("'step'"));
  EXPECT_THAT(lineage_.ids(), IsEmpty());
}

TEST_F(Lineages, FallBackWhereStateOrManifestIsDamaged) {
  const Ids ids = commit_chain(4);
  files_.flip(state_path(ids[3]), 2, 0x10);
  ASSERT_TRUE(files_.remove(path(ids[2])).ok());
  const auto found = newest();
  ASSERT_TRUE(found.found.has_value());
  EXPECT_EQ(ids[1], found.found->id);
  ASSERT_THAT(found.notes, SizeIs(2));
  EXPECT_EQ(state_path(ids[3]), found.notes[0].path);
  EXPECT_THAT(found.notes[0].text(), HasSubstr("7 bytes from offset 0: the object"));
  EXPECT_EQ(path(ids[2]), found.notes[1].path);
  EXPECT_EQ(0u, found.notes[1].bytes);
}

TEST_F(Lineages, NoWholeCheckpointIsNoReasonToStartOver) {
  const Ids ids = commit_chain(2);
  for (const std::string& id : ids) files_.flip(path(id), 0, 1);
  const auto found = lineage_.newest_whole();
  ASSERT_FALSE(found.ok());
  EXPECT_THAT(found.error().message,
              HasSubstr("none of the 2 checkpoints in 'run/objects' is whole; the newest: the "
                        "object '" +
                        path(ids[1]) + "' is damaged"));
}

TEST_F(Lineages, EveryBitOfTheNewest) {
  const Ids ids = commit_chain(2);
  for (const std::string& file : {path(ids[1]), state_path(ids[1])}) {
    const size_t size = files_.contents(file).size();
    for (size_t at = 0; at < size; ++at) {
      for (int bit = 0; bit < 8; ++bit) {
        const auto mask = static_cast<uint8_t>(1 << bit);
        files_.flip(file, at, mask);
        const auto found = newest();
        ASSERT_TRUE(found.found && found.found->id == ids[0]) << file << " byte " << at;
        ASSERT_THAT(found.notes, SizeIs(1));
        files_.flip(file, at, mask);
      }
    }
  }
  EXPECT_EQ(ids[1], newest().found->id);
}

TEST_F(Lineages, DerivingAgainAfterAFallBackHeals) {
  const Ids ids = commit_chain(3);
  files_.flip(state_path(ids[1]), 0, 1);
  files_.flip(path(ids[2]), 0, 1);
  EXPECT_EQ(ids[0], newest().found->id);
  EXPECT_EQ(ids[1], commit(20, "state 2", ids[0]));
  EXPECT_EQ(ids[1], newest().found->id);
  EXPECT_THAT(lineage_.ids(), ElementsAre(ids[0], ids[2], ids[1]));
  EXPECT_EQ(ids[2], commit(30, "state 3", ids[1]));
  EXPECT_EQ(ids[2], newest().found->id);
  EXPECT_THAT(newest().notes, IsEmpty());
}

// --- prune ---

TEST_F(Lineages, PruneKeepsTheNewestAndThePinned) {
  const Ids ids = commit_chain(5);
  const auto gone = lineage_.prune(2, {ids[1]});
  ASSERT_TRUE(gone.ok()) << gone.error().message;
  EXPECT_THAT(*gone, ElementsAre(ids[0], ids[2]));
  EXPECT_THAT(lineage_.ids(), ElementsAre(ids[1], ids[3], ids[4]));
  EXPECT_THAT(objects(), UnorderedElementsAre(ids[1], ids[3], ids[4], sha256_hex("state 2"),
                                              sha256_hex("state 4"), sha256_hex("state 5")));
  EXPECT_THAT(*lineage_.prune(9, {}), IsEmpty());
  EXPECT_THAT(*lineage_.prune(1, {}), ElementsAre(ids[1], ids[3]));
  EXPECT_EQ(ids[4], newest().found->id);
}

TEST_F(Lineages, PruneKeepsAStateThatAnotherNeeds) {
  const std::string one = commit(10, "same", "");
  const std::string two = commit(20, "other", one);
  const std::string three = commit(30, "same", two);
  const std::string pinned = sha256_hex("other");
  EXPECT_THAT(*lineage_.prune(1, {pinned}), ElementsAre(one, two));
  EXPECT_THAT(objects(), UnorderedElementsAre(three, sha256_hex("same"), pinned));
}

TEST_F(Lineages, PruneKeepsThePinnedThatTheLineageDoesNotKnow) {
  const Ids ids = commit_chain(3);
  Lineage later(objects_, {ids[1], ids[2]});
  EXPECT_THAT(*later.prune(1, {ids[0]}), ElementsAre(ids[1]));
  EXPECT_THAT(objects(),
              UnorderedElementsAre(ids[0], ids[2], sha256_hex("state 1"), sha256_hex("state 3")));
}

TEST_F(Lineages, PruneDoesNotCountWhatIsNotWhole) {
  const Ids ids = commit_chain(4);
  files_.flip(path(ids[3]), 0, 1);
  ASSERT_TRUE(files_.remove(state_path(ids[2])).ok());
  EXPECT_THAT(*lineage_.prune(1, {}), ElementsAre(ids[0]));
  EXPECT_EQ(ids[1], newest().found->id);
}

TEST_F(Lineages, PruneRemovesNothingWhereAPinCannotBeRead) {
  const Ids ids = commit_chain(3);
  const Ids before = objects();
  files_.flip(path(ids[0]), 0, 1);
  EXPECT_FALSE(lineage_.prune(1, {ids[0]}).ok());
  EXPECT_EQ(before, objects());
  EXPECT_EQ(ids, lineage_.ids());
}

TEST_F(Lineages, SweepRemovesWhatNobodyNames) {
  const Ids ids = commit_chain(2);
  ASSERT_TRUE(objects_.put("a state without a manifest").ok());
  ASSERT_TRUE(objects_.put("pinned").ok());
  ASSERT_TRUE(lineage_.sweep({sha256_hex("pinned")}).ok());
  EXPECT_THAT(objects(), UnorderedElementsAre(ids[0], ids[1], sha256_hex("state 1"),
                                              sha256_hex("state 2"), sha256_hex("pinned")));
}

// --- inspect ---

std::string describe(const LogRecord& record) { return "says " + record.body; }

TEST_F(Lineages, AreShownAsATree) {
  const Ids ids = commit_chain(2);
  const std::string left = commit(30, "left", ids[1]);
  const std::string right = commit(31, "right", ids[1]);
  ASSERT_TRUE(lineage_.prune(3, {}).ok());
  ASSERT_TRUE(objects_.put("nobody's").ok());
  {
    auto opened = RecordLog::open(files_, "run/log");
    ASSERT_TRUE(opened.ok() && opened->log.append(1, "one").ok());
    ASSERT_TRUE(opened->log.append(2, "two").ok());
  }
  const auto line = [&](const std::string& id, int64_t step, const std::string& state) {
    return fmt::format("step {}  epoch 0  sum {}  {}  state {}  {} bytes  whole", step, step,
                       id.substr(0, 12), sha256_hex(state).substr(0, 12), state.size());
  };
  EXPECT_EQ("3 checkpoints in 'run/objects', 3 of them whole\n  " + line(ids[1], 20, "state 2") +
                "  (parent " + ids[0].substr(0, 12) + " is gone)\n    " + line(left, 30, "left") +
                "\n    " + line(right, 31, "right") +
                "\n1 objects that no checkpoint names, 8 bytes\n"
                "log 'run/log': 2 records, 0 to 1, terms 1 to 2, 102 bytes\n"
                "  0  term 1  says one\n"
                "  1  term 2  says two\n",
            *inspect_lineage(files_, "run", describe, [](const MetricSums& sums) {
              return fmt::format("sum {}", sums[0]);
            }));
  EXPECT_THAT(*inspect_lineage(files_, "run", describe), HasSubstr("step 30  epoch 0  -  "));
}

TEST_F(Lineages, AreShownWithTheirDamage) {
  EXPECT_EQ("0 checkpoints in 'run/objects', 0 of them whole\nno log at 'run/log'\n",
            *inspect_lineage(files_, "run", nullptr));
  const Ids ids = commit_chain(4);
  files_.flip(state_path(ids[0]), 0, 1);
  ASSERT_TRUE(files_.remove(state_path(ids[1])).ok());
  files_.flip(path(ids[2]), 0, 1);
  {
    auto opened = RecordLog::open(files_, "run/log");
    ASSERT_TRUE(opened.ok() && opened->log.append(1, "one").ok());
  }
  const std::string log = files_.contents("run/log");
  files_.put("run/log", log + "torn");
  const std::string text = *inspect_lineage(files_, "run", nullptr);
  EXPECT_THAT(text, HasSubstr("3 checkpoints in 'run/objects', 1 of them whole\n"));
  EXPECT_THAT(text, HasSubstr("7 bytes  STATE DAMAGED\n"));
  EXPECT_THAT(text, HasSubstr("7 bytes  STATE MISSING\n"));
  EXPECT_THAT(text, HasSubstr("damaged: the object '" + path(ids[2]) + "'"));
  EXPECT_THAT(text, HasSubstr("note: 'run/log', 4 bytes from offset 67: "));
  EXPECT_EQ(log + "torn", files_.contents("run/log"));
  files_.put("run/log", "x" + log);
  EXPECT_THAT(*inspect_lineage(files_, "run", nullptr),
              HasSubstr("damaged: the log 'run/log' is damaged at offset 0: "));
  EXPECT_THAT(inspect_lineage(files_, "elsewhere", nullptr).error().message, Not(IsEmpty()));
}

}  // namespace
}  // namespace lockstep
