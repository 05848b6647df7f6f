#include "host/cluster/node.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

View view_of_two() {
  View view;
  view.number = 1;
  view.members = {{1, "a", "", {0, 4}}, {2, "b", "", {4, 8}}};
  return view;
}

template <class T>
bool is(const NodeAction& action) {
  return std::holds_alternative<T>(action);
}

TEST(NodeMachine, GoesThroughAJob) {
  NodeMachine node(2, 2, 2);
  EXPECT_TRUE(is<AwaitEvent>(node.next()));
  node.event(ViewEvent{view_of_two()});
  EXPECT_TRUE(is<ConnectPeers>(node.next()));
  EXPECT_EQ(node.partitions(), (PartitionRange{4, 8}));
  node.peers_connected();
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    for (int64_t batch = 0; batch < 2; ++batch) {
      ASSERT_TRUE(is<TrainStep>(node.next()));
      EXPECT_EQ(std::get<TrainStep>(node.next()).step, epoch * 2 + batch);
      node.step_applied();
    }
    ASSERT_TRUE(is<MeasureEpoch>(node.next()));
    node.epoch_measured();
    EXPECT_TRUE(is<AwaitEvent>(node.next()));  // the coordinator decides
    node.event(EpochDecision{epoch, epoch == 0});
  }
  EXPECT_TRUE(is<ReportFinal>(node.next()));
  node.final_reported();
  EXPECT_TRUE(is<AwaitEvent>(node.next()));
  node.event(UploadEvent{});
  EXPECT_TRUE(is<UploadWeights>(node.next()));
  node.uploaded();
  node.event(StopEvent{ErrorKind::failed, true, "done"});
  ASSERT_TRUE(is<LeaveJob>(node.next()));
  EXPECT_TRUE(std::get<LeaveJob>(node.next()).completed);
}

TEST(NodeMachine, StopsWhereverItIs) {
  NodeMachine node(1, 2, 1);
  node.event(ViewEvent{view_of_two()});
  node.event(StopEvent{ErrorKind::failed, false, "node 'b' failed"});
  ASSERT_TRUE(is<LeaveJob>(node.next()));
  node.fail(ErrorKind::halted, "later");  // the first reason stands
  EXPECT_EQ(std::get<LeaveJob>(node.next()).reason, "node 'b' failed");
}

TEST(NodeMachine, AnEpochMayEndTheJobEarly) {
  NodeMachine node(1, 1, 5);
  node.event(ViewEvent{view_of_two()});
  node.peers_connected();
  node.step_applied();
  node.epoch_measured();
  node.event(EpochDecision{0, false});
  EXPECT_TRUE(is<ReportFinal>(node.next()));
}

TEST(NodeMachine, OldViewsAndDecisionsChangeNothing) {
  NodeMachine node(1, 1, 5);
  node.event(ViewEvent{view_of_two()});
  node.peers_connected();
  node.event(ViewEvent{view_of_two()});
  EXPECT_TRUE(is<TrainStep>(node.next()));
  node.step_applied();
  node.epoch_measured();
  node.event(EpochDecision{3, false});
  EXPECT_TRUE(is<AwaitEvent>(node.next()));
}

}  // namespace
}  // namespace lockstep
