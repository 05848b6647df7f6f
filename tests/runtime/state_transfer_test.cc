#include "host/runtime/state_transfer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <deque>

#include "host/cpu/cpu_device.h"
#include "host/job/options.h"
#include "models/models.h"

namespace lockstep {
namespace {

constexpr SessionId kDonor = 1;
constexpr SessionId kJoiner = 2;

// The donor and the joiner of a view, and the stream between them, on which frames wait until they
// are delivered.
class StateTransferTest : public testing::Test {
 protected:
  struct End {
    SessionId session = 0;
    std::unique_ptr<Replica> replica;
    std::unique_ptr<StateTransfer> transfer;
    std::deque<Frame> sent;
    int states = 0;
  };

  void SetUp() override {
    nlohmann::json options = default_values(job_options());
    options["model"] = "mlp";
    options["data"] = "digits:64";
    Job job = job_from_options(options).value();
    const Dataset data = load_dataset(job.data, Split::train).value();
    job.input_shape = data.row_shape;
    job.classes = data.classes;
    job.train_rows = data.rows();
    for (End* end : {&donor_, &joiner_}) {
      end->session = end == &donor_ ? kDonor : kJoiner;
      const auto model = build_model(job.model, job.input_shape, job.classes).value();
      end->replica =
          Replica::create(job, *model, 1, [](int) { return make_cpu_device("cpu-avx2"); }).value();
      end->transfer = std::make_unique<StateTransfer>(
          *end->replica, [end](SessionId, Frame frame) { end->sent.push_back(std::move(frame)); },
          [end] { ++end->states; });
    }
    ASSERT_TRUE(donor_.replica->set_initial_state().ok());
  }

  static View view(int number) {
    View view;
    view.number = number;
    view.donor = 0;
    view.members = {{kDonor, "n0", "", {0, 8}, {}, 0}, {kJoiner, "n1", "", {}, {}, -1}};
    return view;
  }
  static void adopt(End& end, int number) {
    ASSERT_TRUE(end.transfer->adopt(view(number), end.session).ok());
  }

  // As PeerLinks does it.
  static void deliver(End& from, End& to) {
    while (!from.sent.empty()) {
      const Frame frame = std::move(from.sent.front());
      from.sent.pop_front();
      float* space = to.transfer->accept(from.session, frame.key, frame.count).value();
      if (space != nullptr) std::memcpy(space, frame.values, frame.count * sizeof(float));
      if (space != nullptr || is_question(frame.key.kind)) {
        to.transfer->arrived(from.session, frame.key, space);
      }
    }
  }
  void expect_state() {
    EXPECT_EQ(joiner_.transfer->missing(), 0u);
    EXPECT_EQ(joiner_.states, 1);
    EXPECT_TRUE(joiner_.transfer->take().value());
    EXPECT_EQ(joiner_.replica->state_digest().value(), donor_.replica->state_digest().value());
  }

  End donor_;
  End joiner_;
};

TEST_F(StateTransferTest, ADonorThatHasTheViewAnswersAtOnce) {
  adopt(donor_, 1);
  EXPECT_TRUE(donor_.sent.empty());  // the joiner might not have the view yet, and drop it
  adopt(joiner_, 1);
  EXPECT_GT(joiner_.transfer->missing(), 0u);
  EXPECT_FALSE(joiner_.transfer->take().value());
  deliver(joiner_, donor_);
  deliver(donor_, joiner_);
  expect_state();
}

TEST_F(StateTransferTest, ADonorThatIsAskedTooEarlyAnswersWhenItHasTheView) {
  adopt(joiner_, 1);
  deliver(joiner_, donor_);
  EXPECT_TRUE(donor_.sent.empty());
  adopt(donor_, 1);
  deliver(donor_, joiner_);
  expect_state();
}

TEST_F(StateTransferTest, ANewViewThatComesInBetweenLosesNothing) {
  adopt(donor_, 1);
  adopt(joiner_, 1);
  deliver(joiner_, donor_);
  adopt(joiner_, 2);  // half of the answer would come before this, half behind
  adopt(donor_, 2);
  donor_.sent.clear();
  deliver(joiner_, donor_);
  deliver(donor_, joiner_);
  expect_state();
}

TEST_F(StateTransferTest, WhatGotLostWithAStreamIsAskedForAgain) {
  adopt(donor_, 1);
  adopt(joiner_, 1);
  joiner_.sent.clear();
  joiner_.transfer->connected(kDonor);
  deliver(joiner_, donor_);
  const Frame frame = donor_.sent.front();
  float* space = joiner_.transfer->accept(kDonor, frame.key, frame.count).value();
  ASSERT_NE(space, nullptr);
  joiner_.transfer->ask_again();
  EXPECT_TRUE(joiner_.sent.empty());  // it is coming
  joiner_.transfer->gave_up(kDonor, frame.key, space);
  donor_.sent.clear();
  joiner_.transfer->ask_again();
  deliver(joiner_, donor_);
  deliver(donor_, joiner_);
  expect_state();
  joiner_.transfer->ask_again();
  EXPECT_TRUE(joiner_.sent.empty());
}

TEST_F(StateTransferTest, OnlyMembersWithoutStateAreGivenIt) {
  adopt(donor_, 1);
  const FrameKey question{FrameKind::want_state, 0, 0, {}};
  donor_.transfer->arrived(3, question, nullptr);
  EXPECT_TRUE(donor_.sent.empty());
  adopt(joiner_, 1);
  joiner_.transfer->arrived(kDonor, question, nullptr);
  EXPECT_EQ(joiner_.sent.size(), 1u);  // its own question
}

}  // namespace
}  // namespace lockstep
