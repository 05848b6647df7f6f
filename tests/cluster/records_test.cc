#include "host/cluster/records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace lockstep {
namespace {

using testing::HasSubstr;

View some_view() {
  View view;
  view.number = 3;
  view.first_step = 120;
  view.carries = true;
  view.restores = true;
  view.restore = {120, "ab12", 0xfedcba9876543210u, 4096};
  view.donor = 1;
  view.era = 3;
  view.decided_epochs = 2;
  view.members = {{1000001, "a \"quoted\" name", "10.0.0.1:7", {0, 4}, {{0, 3}, {6, 8}}, 120},
                  {1000002, "b", "10.0.0.2:7", {}, {}, -1}};
  view.slice_owners = {0, 0, 0};
  view.learning_rate = 1.0 / 3;
  return view;
}

EpochRecord epoch(int64_t number, double loss = 0.5) { return {{number, {loss, 0.25}, {}, 0}, {}}; }

// Not in one expression: GCC 12 then finds strings that may not be initialized.
CheckpointRecord checkpoint_of(int64_t step, uint64_t digest, int64_t bytes, int64_t rows) {
  CheckpointRecord record;
  record.state.step = step;
  record.state.object = "object";
  record.state.digest = digest;
  record.state.bytes = bytes;
  record.manifest = "manifest";
  record.samples_consumed = rows;
  return record;
}
CheckpointRecord checkpoint(int64_t step) { return checkpoint_of(step, 7, 100, step); }

ViewRecord view_from_step(int64_t step, bool restores) {
  ViewRecord record;
  record.view.number = 9;
  record.view.first_step = step;
  record.view.restores = restores;
  return record;
}

template <class T>
void expect_same_after_a_round_trip(const T& record) {
  const std::string body = encode_record(record);
  EXPECT_EQ(body.find('\n'), std::string::npos);
  const Result<JobRecord> read = decode_record(body);
  ASSERT_TRUE(read.ok()) << read.error().message;
  ASSERT_TRUE(std::holds_alternative<T>(*read)) << body;
  EXPECT_EQ(std::get<T>(*read), record) << body;
}

void expect_same_job(const RecoveredJob& a, const RecoveredJob& b) {
  EXPECT_EQ(a.recipe_sha256, b.recipe_sha256);
  EXPECT_EQ(a.canary, b.canary);
  EXPECT_EQ(a.view, b.view);
  EXPECT_EQ(a.epochs, b.epochs);
  EXPECT_EQ(a.checkpoints, b.checkpoints);
  EXPECT_EQ(a.ended, b.ended);
}

TEST(Records, EveryKindIsReadAsItWasWritten) {
  expect_same_after_a_round_trip(RunRecord{"0123abcd"});
  expect_same_after_a_round_trip(TermRecord{});
  expect_same_after_a_round_trip(ViewRecord{some_view()});
  expect_same_after_a_round_trip(EpochRecord{{4, {0.1, 1.0 / 3}, {1e-300, 0.7}, 0}, {}});
  expect_same_after_a_round_trip(
      EpochRecord{{9, {0.1}, {}, 47}, {true, 1.0 / 3, {2, 7}, 7, {"a \"note\"", ""}}});
  expect_same_after_a_round_trip(checkpoint_of(240, 1, 1LL << 40, 1LL << 50));
  expect_same_after_a_round_trip(CanaryRecord{"1.2", {{"conv2d", -7}, {"dense", 1LL << 62}}});
  expect_same_after_a_round_trip(EndRecord{});
}

TEST(Records, LossesThatAreNoNumbersAreKept) {
  const double infinity = std::numeric_limits<double>::infinity();
  expect_same_after_a_round_trip(EpochRecord{{0, {infinity, 0}, {-infinity}, 0}, {}});
  const auto read = decode_record(encode_record(epoch(0, std::nan(""))));
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_TRUE(std::isnan(std::get<EpochRecord>(*read).done.sums[0]));
  EXPECT_EQ(std::get<EpochRecord>(*read).done.sums[1], 0.25);
}

TEST(Records, EpochsOfTheFormatBeforeAreRead) {
  const auto read = decode_record(
      R"({"record":"EPOCH","epoch":4,"loss":"0.1","accuracy":"0.7","has_validation":true,)"
      R"("validation_loss":"nan","validation_accuracy":"0.6","go_on":false})");
  ASSERT_TRUE(read.ok()) << read.error().message;
  const auto& record = std::get<EpochRecord>(*read);
  EXPECT_EQ(record.done.epoch, 4);
  EXPECT_EQ(record.done.sums, (MetricSums{0.1, 0.7, 1}));
  ASSERT_EQ(record.done.validation.size(), 3u);
  EXPECT_TRUE(std::isnan(record.done.validation[0]));
  EXPECT_EQ(record.done.validation[1], 0.6);
  EXPECT_EQ(record.decision, EpochDecision{});
}

TEST(Records, TheTextOfAnEpochIsFixed) {
  EXPECT_EQ(encode_record(EpochRecord{{4, {0.1, 58}, {2}, 0}, {false, 0.5, {3}, {}, {}}}),
            R"({"decision":{"keep":[3],"learning_rate":"0.5","stop":false},"epoch":4,)"
            R"("record":"EPOCH","sums":["0.1","58"],"validation":["2"]})");
  const std::string before =
      R"({"epoch":4,"go_on":true,"record":"EPOCH","sums":["0.1","58"],"validation":["2"]})";
  EXPECT_EQ(std::get<EpochRecord>(decode_record(before).value()),
            (EpochRecord{{4, {0.1, 58}, {2}, 0}, {}}));
}

TEST(Records, TheTextOfACheckpointIsFixed) {
  EXPECT_EQ(encode_record(checkpoint_of(240, 0x1f, 4096, 7680)),
            R"({"manifest":"manifest","record":"CHECKPOINT","samples_consumed":7680,)"
            R"("state":{"bytes":4096,"digest":"000000000000001f","object":"object","step":240}})");
}

TEST(Records, WhatCannotBeReadIsAnError) {
  EXPECT_THAT(decode_record(R"({"record":"GIFT"})").error().message, HasSubstr("'GIFT'"));
  const std::string body = encode_record(checkpoint(7));
  const std::string bad_digest = R"({"record":"CHECKPOINT","manifest":"m","samples_consumed":1,)"
                                 R"("state":{"bytes":1,"digest":"?","object":"o","step":1}})";
  const std::string bad_view = R"({"record":"VIEW","view":{"number":1,"members":[3]}})";
  for (const std::string& damaged :
       {std::string(), std::string("[]"), std::string("{}"), body.substr(0, body.size() - 1),
        std::string(R"({"record":"EPOCH","epoch":0})"), std::string(R"({"record":7})"), bad_digest,
        bad_view}) {
    EXPECT_FALSE(decode_record(damaged).ok()) << damaged;
  }
}

TEST(Records, AreDescribedForPeople) {
  EXPECT_EQ(describe_record(ViewRecord{some_view()}), "VIEW 3 from step 120 (restored): 2 members");
  EXPECT_EQ(describe_record(epoch(0)), "EPOCH 1");
  const auto first_sum = [](const MetricSums& sums) { return std::to_string(sums[0]); };
  EXPECT_EQ(describe_record(epoch(0), first_sum), "EPOCH 1 0.500000");
  EXPECT_EQ(describe_record(RunRecord{"0123456789abcdef"}), "RUN recipe 0123456789ab");
  EXPECT_EQ(describe_record(checkpoint(7)), "CHECKPOINT step 7 manifest");
  EXPECT_EQ(describe_record(TermRecord{}), "TERM");
  EXPECT_EQ(describe_record(CanaryRecord{"1.2", {{"dense", 1}}}), "CANARY of 1 ops, version 1.2");
  EXPECT_EQ(describe_record(EndRecord{}), "END");
}

TEST(RecoverJob, AnEmptyLogIsANewJob) { expect_same_job(recover_job({}, 10), RecoveredJob{}); }

TEST(RecoverJob, GathersWhatTheLogSays) {
  const RecoveredJob job =
      recover_job({RunRecord{"abc"}, TermRecord{}, view_from_step(0, true), epoch(0),
                   checkpoint(10), TermRecord{}, ViewRecord{some_view()}, checkpoint(20)},
                  10);
  EXPECT_EQ(job.recipe_sha256, "abc");
  EXPECT_EQ(job.view, some_view());
  EXPECT_EQ(job.epochs, std::vector<EpochRecord>{epoch(0)});
  EXPECT_EQ(job.checkpoints, (std::vector<CheckpointRecord>{checkpoint(10), checkpoint(20)}));
  EXPECT_FALSE(job.ended);
}

TEST(RecoverJob, HasEndedOnlyIfNothingFollows) {
  EXPECT_TRUE(recover_job({RunRecord{"abc"}, EndRecord{}}, 10).ended);
  EXPECT_FALSE(recover_job({RunRecord{"abc"}, EndRecord{}, TermRecord{}}, 10).ended);
}

TEST(RecoverJob, ARestoredViewTakesBackTheEpochsAfterIt) {
  const std::vector<JobRecord> log{epoch(0), epoch(1), epoch(2)};
  std::vector<JobRecord> restored = log;
  restored.push_back(view_from_step(15, true));  // in the second epoch of ten steps
  EXPECT_EQ(recover_job(restored, 10).epochs, std::vector<EpochRecord>{epoch(0)});
  std::vector<JobRecord> plain = log;
  plain.push_back(view_from_step(15, false));
  EXPECT_EQ(recover_job(plain, 10).epochs.size(), 3u);
}

TEST(RecoverJob, AnEpochThatIsDecidedAgainReplacesTheFirst) {
  const RecoveredJob job = recover_job({epoch(0), epoch(1, 2.0), epoch(2), epoch(1, 3.0)}, 10);
  EXPECT_EQ(job.epochs, (std::vector<EpochRecord>{epoch(0), epoch(1, 3.0)}));
}

TEST(RecoverJob, ALaterCheckpointOfALowerStepReplacesTheHigher) {
  const RecoveredJob job =
      recover_job({checkpoint(10), checkpoint(20), checkpoint(30), checkpoint(15)}, 10);
  EXPECT_EQ(job.checkpoints, (std::vector<CheckpointRecord>{checkpoint(10), checkpoint(15)}));
  CheckpointRecord again = checkpoint(15);
  again.manifest = "other";
  EXPECT_EQ(recover_job({checkpoint(15), again}, 10).checkpoints,
            std::vector<CheckpointRecord>{again});
}

TEST(Compacted, GivesTheSameRecovery) {
  const std::vector<JobRecord> log{RunRecord{"abc"},
                                   CanaryRecord{"1", {{"dense", 1}}},
                                   view_from_step(0, true),
                                   epoch(0),
                                   checkpoint(10),
                                   epoch(1),
                                   TermRecord{},
                                   view_from_step(10, true),
                                   epoch(1, 0.25),
                                   checkpoint(20),
                                   epoch(2),
                                   checkpoint(30)};
  const RecoveredJob job = recover_job(log, 10);
  const std::vector<JobRecord> fewest = compacted(job);
  EXPECT_EQ(fewest.size(), 9u);  // RUN, CANARY, VIEW, three epochs, three checkpoints
  expect_same_job(recover_job(fewest, 10), job);
}

TEST(Kept, TheStatesOfTheEpochsThatTheNewestDecisionKeeps) {
  std::vector<EpochRecord> epochs = {epoch(0), epoch(1), epoch(2)};
  EXPECT_FALSE(is_kept(10, epochs, 10));
  epochs[0].decision.keep = {0};
  epochs[2].decision.keep = {1};
  epochs[2].decision.best = 2;
  epochs[2].done.cut_at = 23;
  EXPECT_FALSE(is_kept(10, epochs, 10));
  EXPECT_TRUE(is_kept(20, epochs, 10));
  EXPECT_TRUE(is_kept(23, epochs, 10));
  EXPECT_FALSE(is_kept(30, epochs, 10));
}

TEST(FinalState, IsThatOfTheBestEpochOrTheLast) {
  std::vector<EpochRecord> epochs = {epoch(0), epoch(1)};
  const std::vector<CheckpointRecord> checkpoints = {checkpoint(10), checkpoint(20)};
  EXPECT_EQ(final_state({}, checkpoints, 10), std::nullopt);
  EXPECT_EQ(final_state(epochs, checkpoints, 10)->step, 20);
  epochs[1].decision.best = 0;
  EXPECT_EQ(final_state(epochs, checkpoints, 10)->step, 10);
  EXPECT_EQ(final_state(epochs, {checkpoint(20)}, 10), std::nullopt);
}

TEST(Compacted, KeepsThatTheJobHasEnded) {
  const RecoveredJob job = recover_job({RunRecord{"abc"}, epoch(0), EndRecord{}}, 10);
  expect_same_job(recover_job(compacted(job), 10), job);
  EXPECT_TRUE(recover_job(compacted(job), 10).ended);
}

}  // namespace
}  // namespace lockstep
