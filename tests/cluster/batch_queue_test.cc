#include "host/cluster/batch_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace lockstep {
namespace {

using testing::HasSubstr;

// Ten rows of 4 bytes for each of `batches`, the last of which has one; and a number for each.
class BatchQueueTest : public testing::Test {
 protected:
  void make(int64_t batches, int max_nodes) {
    BatchFacts facts;
    facts.task = "{}";
    facts.terms = {"1", "cpu-avx2", "data", ""};
    facts.batches = batches;
    facts.arrays = {{(batches - 1) * 40 + 4, 40}, {batches * 8, 8}};
    facts.max_nodes = max_nodes;
    queue_.emplace(facts);
  }
  SessionId join(const std::string& name) {
    const auto welcome = queue_->hello({kWireVersion, "1", name}, now_);
    EXPECT_TRUE(welcome.ok());
    const Status joined = queue_->join(request(welcome->session), now_);
    EXPECT_TRUE(joined.ok()) << joined.error().message;
    return welcome->session;
  }
  static JoinRequest request(SessionId session) {
    return {session, "", 1, "cpu", "cpu-avx2", "data", "", {{"results", 5}}};
  }
  BatchRange next(SessionId session, BatchRange done = {}) {
    const auto reply = queue_->next({session, done}, now_);
    EXPECT_TRUE(reply.ok()) << reply.error().message;
    return reply.ok() ? reply->batches : BatchRange{};
  }
  Status deliver(SessionId session, int array, int64_t offset, int64_t size) {
    const ResultPart part{session, array, offset, std::string(static_cast<size_t>(size), 'x')};
    LOCKSTEP_RETURN_IF_ERROR(queue_->check(part, now_));
    queue_->accepted(part);
    return {};
  }
  void deliver_all(SessionId session, BatchRange batches) {
    const auto& arrays = queue_->facts().arrays;
    for (size_t i = 0; i < arrays.size(); ++i) {
      const ByteRange bytes = arrays[i].bytes_of(batches);
      EXPECT_TRUE(deliver(session, static_cast<int>(i), bytes.begin, bytes.end - bytes.begin).ok());
    }
  }

  int64_t now_ = 1000;
  std::optional<BatchQueue> queue_;
};

TEST_F(BatchQueueTest, EveryBatchIsGivenOnce) {
  make(1000, 3);
  const std::vector<SessionId> nodes = {join("a"), join("b"), join("c")};
  std::vector<BatchRange> held(3);
  std::set<int64_t> seen;
  for (int turn = 0; !queue_->done(); turn = (turn + 1) % 3) {
    if (!held[turn].empty()) deliver_all(nodes[turn], held[turn]);
    held[turn] = next(nodes[turn], held[turn]);
    EXPECT_LE(held[turn].size(), 64);
    for (int64_t batch = held[turn].begin; batch < held[turn].end; ++batch) {
      EXPECT_TRUE(seen.insert(batch).second) << batch;
    }
  }
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_EQ(queue_->batches_done(), 1000);
  const auto reply = queue_->next({nodes[0], held[0]}, now_);
  EXPECT_TRUE(reply->over);
  EXPECT_TRUE(reply->batches.empty());
  EXPECT_THAT(queue_->hello({kWireVersion, "1", "d"}, now_).error().message, HasSubstr("done"));
}

TEST_F(BatchQueueTest, AnswersThatAreLostAreGivenAgain) {
  make(100, 1);
  const SessionId node = join("a");
  const BatchRange first = next(node);
  EXPECT_EQ(next(node), first);
  deliver_all(node, first);
  deliver_all(node, first);
  const BatchRange second = next(node, first);
  EXPECT_EQ(second.begin, first.end);
  EXPECT_EQ(next(node, first), second);
  EXPECT_EQ(queue_->batches_done(), first.size());
}

TEST_F(BatchQueueTest, WhatTheDeadHeldIsGivenToOthersFirst) {
  make(100, 2);
  const SessionId a = join("a");
  const SessionId b = join("b");
  const BatchRange lost = next(a);
  const BatchRange other = next(b);
  ASSERT_TRUE(deliver(a, 0, 0, 40).ok());
  now_ += 3000;
  ASSERT_TRUE(queue_->renew(b, now_).ok());
  now_ += 2500;  // the lease is 5 s
  queue_->tick(now_);
  EXPECT_EQ(queue_->renew(a, now_).error().kind, ErrorKind::refused);
  EXPECT_FALSE(deliver(a, 0, 40, 40).ok());
  deliver_all(b, other);
  EXPECT_EQ(next(b, other), lost);
  // What came of it before does not count.
  EXPECT_EQ(queue_->next({b, lost}, now_).error().kind, ErrorKind::refused);
  deliver_all(b, lost);
  EXPECT_EQ(next(b, lost).begin, other.end);
  std::vector<std::string> gone;
  for (const BatchEvent& event : queue_->take_events()) {
    const auto* left = std::get_if<WorkerLeft>(&event);
    if (left == nullptr) continue;
    gone.push_back(left->name + ": " + left->why);
    EXPECT_EQ(left->given_back, lost);
  }
  EXPECT_EQ(gone, std::vector<std::string>{"a: it gave no sign of life"});
}

TEST_F(BatchQueueTest, ABrokenConnectionShortensTheLease) {
  make(10, 1);
  const SessionId node = join("a");
  queue_->connection_lost(node, now_);
  queue_->tick(now_ + 100);
  EXPECT_TRUE(queue_->renew(node, now_ + 100).ok());
  queue_->connection_lost(node, now_ + 100);
  queue_->tick(now_ + 300);
  EXPECT_FALSE(queue_->renew(node, now_ + 300).ok());
  EXPECT_TRUE(queue_->workers().empty());
}

TEST_F(BatchQueueTest, ResultsMustBeOfTheNodesBatchesAndInOrder) {
  make(100, 2);
  const SessionId a = join("a");
  const SessionId b = join("b");
  EXPECT_FALSE(deliver(a, 0, 0, 40).ok());  // it was not given any
  const BatchRange first = next(a);
  deliver_all(a, first);
  const BatchRange of_a = next(a, first);
  const BatchRange of_b = next(b);
  ASSERT_EQ(of_a, (BatchRange{1, 3}));
  ASSERT_EQ(of_b, (BatchRange{3, 4}));
  EXPECT_FALSE(deliver(a, 0, 120, 40).ok());  // of another's
  EXPECT_FALSE(deliver(a, 0, 0, 40).ok());
  EXPECT_FALSE(deliver(a, 2, 40, 40).ok());
  EXPECT_FALSE(deliver(a, 0, 80, 40).ok());  // something is missing before
  EXPECT_FALSE(deliver(b, 0, 116, 40).ok());
  EXPECT_FALSE(deliver(a, 0, 40, 84).ok());
  EXPECT_FALSE(deliver(a, 0, INT64_MAX, 40).ok());
  EXPECT_TRUE(deliver(a, 0, 40, 60).ok());
  EXPECT_TRUE(deliver(a, 0, 40, 60).ok());
  EXPECT_TRUE(deliver(a, 0, 100, 20).ok());
  const auto early = queue_->next({a, of_a}, now_);
  ASSERT_FALSE(early.ok());
  EXPECT_THAT(early.error().message, HasSubstr("of array 1 there are 0 of 16"));
  EXPECT_TRUE(deliver(a, 1, 8, 16).ok());
  EXPECT_NE(next(a, of_a), of_a);
}

TEST_F(BatchQueueTest, TheLastBatchMayBeSmaller) {
  make(1, 1);
  const SessionId node = join("a");
  EXPECT_EQ(next(node), (BatchRange{0, 1}));
  EXPECT_FALSE(deliver(node, 0, 0, 8).ok());
  deliver_all(node, {0, 1});
  EXPECT_TRUE(queue_->next({node, {0, 1}}, now_)->over);
}

TEST_F(BatchQueueTest, NobodyRunsFarAheadOfTheSlowest) {
  make(1'000'000, 2);
  const SessionId slow = join("slow");
  const SessionId fast = join("fast");
  const BatchRange held = next(slow);
  EXPECT_EQ(held.begin, 0);
  BatchRange done;
  int64_t furthest = 0;
  for (int i = 0; i < 10'000; ++i) {
    const BatchRange batches = next(fast, done);
    if (batches.empty()) break;
    furthest = batches.end;
    deliver_all(fast, batches);
    done = batches;
  }
  EXPECT_GE(furthest, 64 * 64);
  EXPECT_LT(furthest, 64 * 65);
  deliver_all(slow, held);
  EXPECT_FALSE(next(slow, held).empty());
}

TEST_F(BatchQueueTest, ATurnTakesAMoment) {
  make(100'000, 1);
  const SessionId node = join("a");
  BatchRange batches = next(node);
  EXPECT_EQ(batches.size(), 1);
  const auto turn = [&](int64_t takes_ms) {
    now_ += takes_ms;
    deliver_all(node, batches);
    batches = next(node, batches);
    return batches.size();
  };
  EXPECT_EQ(turn(100), 2);
  EXPECT_EQ(turn(100), 4);
  EXPECT_EQ(turn(300), 4);
  EXPECT_EQ(turn(600), 2);
  EXPECT_EQ(turn(600), 1);
  EXPECT_EQ(turn(4000), 1);
  for (int i = 0; i < 10; ++i) turn(1);
  EXPECT_EQ(turn(1), 64);
}

TEST_F(BatchQueueTest, WhoDoesNotFitIsRefused) {
  make(100, 1);
  EXPECT_THAT(queue_->hello({kWireVersion + 1, "1", "a"}, now_).error().message,
              HasSubstr("the version"));
  const auto session = queue_->hello({kWireVersion, "1", "a"}, now_)->session;
  JoinRequest other = request(session);
  other.data_digest = "other";
  EXPECT_THAT(queue_->join(other, now_).error().message, HasSubstr("the data digest"));
  other = request(session);
  other.numerics = "cpu-avx512";
  EXPECT_THAT(queue_->join(other, now_).error().message, HasSubstr("numerics"));
  EXPECT_FALSE(queue_->next({session, {}}, now_).ok());
  ASSERT_TRUE(queue_->join(request(session), now_).ok());
  ASSERT_TRUE(queue_->join(request(session), now_).ok());
  // One too many, until the first is silent, whose place may become free.
  EXPECT_EQ(queue_->hello({kWireVersion, "1", "b"}, now_).error().kind, ErrorKind::refused);
  EXPECT_EQ(queue_->hello({kWireVersion, "1", "b"}, now_ + 2000).error().kind, ErrorKind::failed);
  queue_->leave(session, "it left");
  const auto next_session = queue_->hello({kWireVersion, "1", "b"}, now_)->session;
  other = request(next_session);
  other.canary = {{"results", 6}};
  EXPECT_THAT(queue_->join(other, now_).error().message, HasSubstr("computes other bits"));
}

}  // namespace
}  // namespace lockstep
