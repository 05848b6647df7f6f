#include "host/cli/outside_decider.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace lockstep {
namespace {

class OutsideDeciderTest : public testing::Test {
 protected:
  OutsideDeciderTest() {
    EXPECT_EQ(::pipe(ends_), 0);
    job_.optimizer = {{"learning_rate", 0.5}};
    decider_ = OutsideDecider::open(std::to_string(ends_[0]), 10).value();
  }
  ~OutsideDeciderTest() override {
    ::close(ends_[0]);
    close_writer();
  }

  void close_writer() {
    if (ends_[1] >= 0) ::close(ends_[1]);
    ends_[1] = -1;
  }
  void take_part() { decider_->take_part(job_, &facts_); }
  std::optional<EpochDecision> decide(int64_t epoch, double loss = 1) {
    return facts_.decide(decided_, EpochDone{epoch, {loss}, {}, 0});
  }
  void ask(int64_t epoch) {
    EXPECT_EQ(decide(epoch), std::nullopt);
    ASSERT_TRUE(decider_->unasked());
    decider_->asked(0);
    EXPECT_FALSE(decider_->unasked());
  }
  Result<bool> say(const std::string& text) {
    EXPECT_EQ(::write(ends_[1], text.data(), text.size()), std::ssize(text));
    return decider_->read(0);
  }
  void answer(const std::string& line) {
    const auto read = say(line + "\n");
    ASSERT_TRUE(read.ok()) << read.error().message;
    EXPECT_TRUE(*read);
  }
  std::string refusal(const std::string& line) {
    const auto read = say(line + "\n");
    return read.ok() ? "" : read.error().message;
  }

  int ends_[2] = {-1, -1};
  Job job_;
  ClusterFacts facts_;
  std::vector<EpochRecord> decided_;
  std::unique_ptr<OutsideDecider> decider_;
};

TEST_F(OutsideDeciderTest, TheAnswerIsTheDecisionAndNobodyIsAskedTwice) {
  take_part();
  ask(0);
  EXPECT_EQ(decide(0), std::nullopt);
  EXPECT_FALSE(decider_->unasked());
  answer(R"({"epoch": 0, "learning_rate": 0.1})");
  const auto decision = decide(0);
  ASSERT_TRUE(decision);
  EXPECT_FALSE(decision->stop);
  EXPECT_EQ(decision->learning_rate, std::optional<double>(0.1F));
  EXPECT_EQ(decide(0), decision);
  EXPECT_FALSE(decider_->unasked());
  decided_.push_back({{0, {1}, {}, 0}, *decision});
  ask(1);
  answer(R"({"epoch": 1, "stop": true, "learning_rate": null})");
  EXPECT_TRUE(decide(1)->stop);
  EXPECT_EQ(decide(1)->learning_rate, decision->learning_rate);  // as before
}

TEST_F(OutsideDeciderTest, AnEpochThatIsMeasuredOtherwiseIsAskedAgain) {
  take_part();
  ask(0);
  answer(R"({"epoch": 0, "stop": true})");
  EXPECT_EQ(decide(0, 2), std::nullopt);
  ASSERT_TRUE(decider_->unasked());
  EXPECT_EQ(decider_->unasked()->sums, MetricSums{2});
}

TEST_F(OutsideDeciderTest, ALossThatIsNoNumberIsAskedOnce) {
  take_part();
  const double nan = std::nan("");
  EXPECT_EQ(decide(0, nan), std::nullopt);
  decider_->asked(0);
  EXPECT_EQ(decide(0, nan), std::nullopt);
  EXPECT_FALSE(decider_->unasked());
  answer(R"({"epoch": 0, "stop": true})");
  ASSERT_TRUE(decide(0, nan));
  EXPECT_TRUE(decide(0, nan)->stop);
}

TEST_F(OutsideDeciderTest, WhatTheLogHoldsIsDecided) {
  EpochRecord logged{{0, {1}, {}, 0}, {}};
  logged.decision.stop = true;
  logged.decision.learning_rate = 0.25;
  decider_->recall({logged});
  take_part();
  EXPECT_EQ(decide(0)->stop, true);
  EXPECT_EQ(decide(0)->learning_rate, std::optional<double>(0.25));
  EXPECT_FALSE(decider_->unasked());
}

TEST_F(OutsideDeciderTest, TheJobsOwnCallbacksDecideToo) {
  facts_.decide = [](const auto&, const EpochDone& done) {
    EpochDecision own;
    own.stop = done.epoch == 1;
    own.learning_rate = 0.125;
    own.keep = {0};
    return own;
  };
  take_part();
  ask(0);
  answer(R"({"epoch": 0})");
  EXPECT_EQ(*decide(0), (EpochDecision{false, 0.125, {0}, {}, {}}));
  ask(1);
  answer(R"({"epoch": 1, "learning_rate": 1})");
  EXPECT_TRUE(decide(1)->stop);
  EXPECT_EQ(decide(1)->learning_rate, std::optional<double>(1));
}

TEST_F(OutsideDeciderTest, WhatIsNoDecisionIsRefused) {
  take_part();
  EXPECT_NE(refusal(R"({"epoch": 0})").find("nothing was asked"), std::string::npos);
  ask(0);
  for (const auto& [line, why] : std::vector<std::pair<std::string, std::string>>{
           {"stop", "no object of JSON"},
           {R"({"epoch": 1})", "the question was of epoch 0"},
           {R"({"stop": true})", "the question was of epoch 0"},
           {R"({"epoch": 0, "stop": 1})", "stop must be true or false"},
           {R"({"epoch": 0, "learning_rate": -1})", "at least 0"},
           {R"({"epoch": 0, "learning_rate": 1e300})", "at least 0"},
           {R"({"epoch": 0, "learningrate": 1})", "did you mean 'learning_rate'"}}) {
    EXPECT_NE(refusal(line).find(why), std::string::npos) << line << ": " << refusal(line);
  }
  const auto endless = say(std::string(8 << 10, 'x'));
  ASSERT_FALSE(endless.ok());
  EXPECT_NE(endless.error().message.find("it is too long"), std::string::npos);
}

TEST_F(OutsideDeciderTest, ARateThatFollowsAScheduleIsNotSet) {
  job_.optimizer["learning_rate"] = {{"class_name", "CosineDecay"}};
  take_part();
  ask(0);
  EXPECT_NE(refusal(R"({"epoch": 0, "learning_rate": 1})").find("schedule"), std::string::npos);
}

TEST_F(OutsideDeciderTest, ALineMayComeInPieces) {
  take_part();
  ask(0);
  EXPECT_FALSE(*say(R"({"epoch": 0, )"));
  answer(R"("stop": true})");
  EXPECT_TRUE(decide(0)->stop);
}

TEST_F(OutsideDeciderTest, WhoIsGoneOrSilentIsAnError) {
  take_part();
  EXPECT_FALSE(*decider_->read(1'000'000));  // nothing was asked
  ask(0);
  EXPECT_FALSE(*decider_->read(10'000));
  const auto late = decider_->read(10'001);
  ASSERT_FALSE(late.ok());
  EXPECT_EQ(late.error().kind, ErrorKind::halted);
  EXPECT_NE(late.error().message.find("no decision on epoch 1 came within 10 s"),
            std::string::npos);
  close_writer();
  const auto gone = decider_->read(0);
  ASSERT_FALSE(gone.ok());
  EXPECT_NE(gone.error().message.find("is gone"), std::string::npos);
}

TEST(OutsideDecider, ATargetThatIsNone) {
  for (const char* target : {"-", "x", "9999"}) {
    EXPECT_EQ(OutsideDecider::open(target, 1).error().kind, ErrorKind::usage) << target;
  }
  EXPECT_EQ(OutsideDecider::open("0", 0).error().kind, ErrorKind::usage);
}

}  // namespace
}  // namespace lockstep
