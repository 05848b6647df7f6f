// BatchCoordinator and nodes in one process, over loopback.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "host/core/digest.h"
#include "host/cpu/cpu_device.h"
#include "host/nn/model_config.h"
#include "host/runtime/batch_coordinator.h"
#include "host/runtime/batch_worker.h"
#include "host/runtime/node_runtime.h"
#include "models/models.h"
#include "rpc/network.h"

namespace lockstep {
namespace {

using testing::HasSubstr;

class Memory final : public ResultSink {
 public:
  explicit Memory(int64_t size) : bytes_(static_cast<size_t>(size), '?') {}
  Status write(int, int64_t offset, std::string_view bytes) override {
    if (fails_) return Error{"the disk is full"};
    const std::lock_guard lock(mutex_);
    bytes_.replace(static_cast<size_t>(offset), bytes.size(), bytes);
    return {};
  }
  std::string bytes_;
  bool fails_ = false;

 private:
  std::mutex mutex_;
};

class BatchClusterTest : public testing::Test {
 protected:
  void prepare(const Model& model, const Dataset& data, int64_t batch_size) {
    data_ = data;
    const Graph graph = model.predict_graph().value();
    weights_ = initial_weights(graph, 3);
    task_.model_config = model.config();
    task_.data = data.name;
    task_.data_options.needs_targets = false;
    task_.batch_size = batch_size;
    task_.numerics = "cpu-avx2";
    task_.data_digest = data_.digest;
    task_.weights_sha256 = sha256_hex(
        {reinterpret_cast<const char*>(weights_.data()), weights_.size() * sizeof(float)});
    facts_.task = to_json(task_).dump();
    facts_.terms = {LOCKSTEP_VERSION, task_.numerics, task_.data_digest, ""};
    facts_.batches = batches_of(task_, data_.rows());
    facts_.arrays = result_arrays(task_, graph.output_shapes, data_.rows());
    facts_.max_nodes = 3;
    memory_.emplace(facts_.arrays[0].bytes);
    const auto worker = make_predicting_worker(task_, graph, data_, weights_, 1, [](int) {
                          return make_cpu_device("cpu-avx2");
                        }).value();
    expected_.clear();
    ASSERT_TRUE(worker
                    ->compute({0, facts_.batches},
                              [&](int, std::string_view bytes) {
                                expected_ += bytes;
                                return Status{};
                              })
                    .ok());
  }
  // 300 rows: 43 batches of 7, the last of 6.
  void SetUp() override {
    const Dataset data = load_dataset("digits:1800", Split::test).value();
    prepare(*build_model("mlp", data.row_shape, data.classes).value(), data, 7);
  }

  void start() {
    coordinator_.emplace(facts_, weights_, task_.weights_sha256, *memory_,
                         [this](const BatchEvent& event) {
                           done_ += std::holds_alternative<BatchesDone>(event) ? 1 : 0;
                         });
    ASSERT_TRUE(coordinator_->listen(*network_, {"127.0.0.1", 0}).ok());
  }
  NodeOptions options() const {
    NodeOptions options;
    options.coordinator = {"127.0.0.1", coordinator_->port()};
    options.name = "node";
    options.devices = 1;
    options.available_devices = [](const std::string&) { return 1; };
    options.make_device = [](const std::string& numerics, int) {
      return make_cpu_device(numerics);
    };
    return options;
  }

  // What others have left undone is done.
  void finish_with_another() {
    NodeRuntime node(options(), *network_);
    std::thread thread([&] { static_cast<void>(node.run()); });
    EXPECT_TRUE(coordinator_->wait_for_end(20'000));
    EXPECT_TRUE(coordinator_->finish(2000).ok());
    thread.join();
    EXPECT_TRUE(memory_->bytes_ == expected_);
  }

  const std::unique_ptr<Network> network_ = make_thrift_network();
  Dataset data_;
  std::vector<float> weights_;
  BatchTask task_;
  BatchFacts facts_;
  std::string expected_;
  std::optional<Memory> memory_;
  std::atomic<int> done_{0};
  std::optional<BatchCoordinator> coordinator_;
};

TEST_F(BatchClusterTest, AnyNumberOfNodesMakesTheSameBytes) {
  for (const int nodes : {1, 3}) {
    memory_.emplace(facts_.arrays[0].bytes);
    start();
    std::vector<std::thread> threads;
    std::atomic<int> succeeded{0};
    for (int i = 0; i < nodes; ++i) {
      threads.emplace_back([&] {
        NodeRuntime node(options(), *network_);
        succeeded += node.run().ok() ? 1 : 0;
      });
    }
    EXPECT_TRUE(coordinator_->wait_for_end(20'000));
    EXPECT_TRUE(coordinator_->finish(2000).ok());
    for (std::thread& thread : threads) thread.join();
    // Who comes when all is done is refused.
    EXPECT_GE(succeeded, 1);
    EXPECT_TRUE(memory_->bytes_ == expected_);
    coordinator_.reset();
  }
}

TEST_F(BatchClusterTest, ResultsLargerThanAMessageComeInPieces) {
  const Dataset data = load_dataset("digits:6", Split::test).value();
  Model wide("wide", data.row_shape);
  wide.add("UpSampling2D", {{"size", 40}});
  prepare(wide, data, 3);
  ASSERT_GT(facts_.arrays[0].bytes_of_batch / 3, kFetchBytes);
  start();
  NodeRuntime node(options(), *network_);
  std::thread thread([&] { EXPECT_TRUE(node.run().ok()); });
  EXPECT_TRUE(coordinator_->wait_for_end(90'000));
  EXPECT_TRUE(coordinator_->finish(2000).ok());
  thread.join();
  EXPECT_TRUE(memory_->bytes_ == expected_);
}

TEST_F(BatchClusterTest, ANodeThatLeavesIsReplaced) {
  start();
  {
    NodeOptions leaving = options();
    NodeRuntime node(leaving, *network_);
    std::thread thread([&] { EXPECT_TRUE(node.run().ok()); });
    while (done_ == 0) std::this_thread::yield();
    node.stop("stopped by the test");
    thread.join();
  }
  finish_with_another();
}

// It hears of its release from the poll alone, which may come after its next calls.
TEST_F(BatchClusterTest, CallsOfANodeThatHasLeftAreNotRefused) {
  start();
  const auto client = network_->connect_control({"127.0.0.1", coordinator_->port()}, 2000).value();
  const SessionId session =
      client->hello({kWireVersion, LOCKSTEP_VERSION, "leaving"}).value().session;
  JoinRequest join;
  join.session = session;
  join.devices = 1;
  join.numerics = task_.numerics;
  join.data_digest = task_.data_digest;
  ASSERT_TRUE(client->join(join).ok());
  const WorkReply work = client->next_batches({session, {}}).value();
  ASSERT_EQ(work.batches.begin, 0);
  ASSERT_TRUE(client->ask_to_leave(session).ok());
  EXPECT_TRUE(client->deliver({session, 0, 0, "late"}).ok());
  EXPECT_TRUE(client->next_batches({session, work.batches}).value().over);
  finish_with_another();
}

TEST_F(BatchClusterTest, AFullDiskEndsTheWork) {
  memory_->fails_ = true;
  start();
  NodeRuntime node(options(), *network_);
  Status ended;
  std::thread thread([&] { ended = node.run(); });
  EXPECT_TRUE(coordinator_->wait_for_end(20'000));
  EXPECT_EQ(coordinator_->finish(2000).error().message, "the disk is full");
  thread.join();
  EXPECT_EQ(ended.error().message, "the disk is full");
}

TEST_F(BatchClusterTest, OtherDataIsRefusedByName) {
  start();
  NodeOptions other = options();
  other.data = "digits:1200";
  NodeRuntime node(other, *network_);
  const Status ended = node.run();
  EXPECT_EQ(ended.error().kind, ErrorKind::refused);
  EXPECT_THAT(ended.error().message, HasSubstr("the data digest of this node is"));
  coordinator_->stop(ErrorKind::failed, "the test is over");
  EXPECT_EQ(coordinator_->finish(0).error().message, "the test is over");
}

TEST_F(BatchClusterTest, ItTrainsNothing) {
  start();
  const auto client = network_->connect_control({"127.0.0.1", coordinator_->port()}, 2000).value();
  const auto welcome = client->hello({kWireVersion, LOCKSTEP_VERSION, "odd"});
  ASSERT_TRUE(welcome.ok());
  EXPECT_THAT(client->report_step({welcome->session, 0, 0, {}, 0, {}}).error().message,
              HasSubstr("does other work"));
  EXPECT_THAT(client->newest_state().error().message, HasSubstr("does other work"));
  EXPECT_FALSE(client->fetch(welcome->session, "another object", 0).ok());
  const auto status = nlohmann::json::parse(client->status().value());
  EXPECT_EQ(status.at("task"), "predict");
  EXPECT_EQ(status.at("batches"), 43);
  EXPECT_EQ(status.at("batches_done"), 0);
}

}  // namespace
}  // namespace lockstep
