// A node's replica on 1, 2 and 4 emulated GPUs: the same digests.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/cpu/cpu_device.h"
#include "host/data/batch_loader.h"
#include "host/graph/gradient_buckets.h"
#include "host/job/data_job.h"
#include "host/job/options.h"
#include "host/reduce/tree_sum.h"
#include "host/runtime/replica.h"
#include "tests/emulated_cuda/runtime.h"
#include "tests/emulated_cuda/toy.h"

namespace lockstep {
namespace {

using emulated::Machine;

constexpr int64_t kSteps = 3;  // launched one by one, recorded, played

struct Trace {
  std::vector<uint64_t> digests;  // after each step, of the memory at the end
  std::vector<double> losses;     // of each step, then of each partition of an evaluation
  std::string state;
  bool operator==(const Trace&) const = default;
};

class EmulatedReplica : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() != "mlp") LOCKSTEP_CUDNN_OR_SKIP();
    nlohmann::json options = default_values(job_options());
    options["model"] = GetParam();
    options["data"] = "digits:64";
    options["batch_size"] = 16;
    options["partitions"] = 8;
    job_ = job_from_options(options).value();
    data_ = load_dataset(job_.data, Split::train).value();
    job_.input_shape = data_.row_shape;
    job_.classes = data_.classes;
    job_.train_rows = data_.rows();
  }

  LoaderOptions loading() const {
    return {{0, data_.rows()}, job_.batch_size, job_.partitions, 0, true};
  }
  BatchRequest request(int64_t step, const std::vector<PartitionRange>& ranges) const {
    return {step / job_.steps_per_epoch(), step % job_.steps_per_epoch(), ranges};
  }
  std::vector<HostBatch> batches_of(int64_t step, const std::vector<PartitionRange>& ranges) {
    return BatchLoader(data_, loading()).take(request(step, ranges));
  }

  // `alone`: no other node needs the gradients.
  void step(Replica& replica, BatchLoader& loader, bool alone, Trace* trace) {
    const auto ranges = replica.device_ranges({0, job_.partitions});
    const int64_t step = replica.state().step;
    const auto batches = loader.take(request(step, ranges));
    loader.prefetch(request(step + 1, ranges));
    const auto roots = replica.take_roots(step, ranges, alone);
    ASSERT_TRUE(roots.ok()) << roots.error().message;
    const Status computed = replica.compute(step, ranges, batches, [](int64_t, int64_t) {});
    ASSERT_TRUE(computed.ok()) << computed.error().message;
    const auto metrics = replica.update(nullptr, *roots);
    ASSERT_TRUE(metrics.ok()) << metrics.error().message;
    trace->digests.push_back(replica.state().digest);
    trace->losses.push_back(metrics->at(0));
  }

  void evaluate(Replica& replica, Trace* trace) {
    const auto ranges = replica.device_ranges({0, job_.partitions});
    std::vector<ValidationPart> parts;
    const Status measured = replica.measure(0, 16, ranges, batches_of(0, ranges), &parts);
    ASSERT_TRUE(measured.ok()) << measured.error().message;
    EXPECT_EQ(parts.size(), static_cast<size_t>(job_.partitions));
    for (const ValidationPart& part : parts) trace->losses.push_back(part.sums.at(0));
  }

  Trace run(int devices, bool alone, const DeviceFactory& factory) {
    const auto model = build_model(job_.model, job_.input_shape, job_.classes).value();
    const auto replica = Replica::create(job_, *model, devices, factory).value();
    LoaderOptions options = loading();
    options.devices = replica->device_list();
    BatchLoader loader(data_, options);
    Trace trace;
    for (int64_t t = 0; t < kSteps && !HasFatalFailure(); ++t) {
      step(*replica, loader, alone, &trace);
    }
    if (HasFatalFailure()) return trace;
    evaluate(*replica, &trace);
    trace.digests.push_back(replica->state_digest().value());
    trace.state = replica->encode_state().value();
    return trace;
  }

  int64_t buckets() const {
    const auto model = build_model(job_.model, job_.input_shape, job_.classes).value();
    const auto graph = model->training_graph(objective_of(job_)).value();
    return std::ssize(gradient_buckets(graph, cuda_.bucket_bytes));
  }

  // `linked`: there is NCCL.
  Trace run_on_gpus(int devices, bool alone, uint64_t seed, bool linked = true) {
    const int64_t all = linked && devices > 1 ? devices * kSteps : 0;
    const bool moves = job_.exact || !alone;
    Machine machine({.devices = devices, .seed = seed, .has_nccl = linked});
    const Trace trace =
        run(devices, alone, [&](int index) { return make_cuda_device(index, numerics_, cuda_); });
    EXPECT_EQ(machine.leaks(), "");
    // A node that is alone needs all of each bucket, else of the sum that comes from the host.
    const int64_t collectives = all * (alone ? buckets() : 1);
    EXPECT_EQ(machine.calls("ncclAllGather"), moves ? collectives : 0);
    EXPECT_EQ(machine.calls("ncclAllReduce"), moves ? 0 : collectives);
    if (!moves) {
      EXPECT_EQ(machine.calls("ncclSend"), 0);
    }
    return trace;
  }

  // Two nodes, half of the partitions and `devices` GPUs each. Without the evaluation's losses.
  Trace run_on_two_nodes(int devices, uint64_t seed);
  std::string error_with_room(int64_t batch_size, int64_t room_for);

  std::string numerics_ = "cuda-fp32";
  CudaOptions cuda_{.bucket_bytes = 16 << 10};
  Job job_;
  Dataset data_;
};

TEST_P(EmulatedReplica, IsTheSameOnAnyNumberOfGpus) {
  const Trace one = run_on_gpus(1, true, 1);
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_EQ(one.digests.size(), static_cast<size_t>(kSteps + 1));
  EXPECT_NE(one.digests[0], one.digests[1]);
  EXPECT_EQ(one.digests[kSteps - 1], one.digests[kSteps]);
  for (const int devices : {1, 2, 4}) {
    for (const bool alone : {true, false}) {
      const auto seed = static_cast<uint64_t>(devices + (alone ? 0 : 1));
      EXPECT_TRUE(run_on_gpus(devices, alone, seed) == one) << devices << " GPUs";
      ASSERT_FALSE(HasFatalFailure()) << devices << " GPUs, " << (alone ? "alone" : "not alone");
    }
  }
  EXPECT_TRUE(run_on_gpus(2, true, 3, false) == one) << "through the host";
}

TEST_P(EmulatedReplica, IsTheSameInBucketsOfAnySize) {
  const Trace one = run_on_gpus(1, true, 1);
  ASSERT_FALSE(HasFatalFailure());
  std::vector<int64_t> counts;
  for (const int64_t bytes : {int64_t{1} << 30, int64_t{1} << 16, int64_t{1}}) {
    cuda_.bucket_bytes = bytes;
    counts.push_back(buckets());
    EXPECT_TRUE(run_on_gpus(1, false, 2) == one) << bytes << " bytes, one GPU, another node";
    EXPECT_TRUE(run_on_gpus(2, true, 3) == one) << bytes << " bytes, two GPUs";
  }
  EXPECT_EQ(counts[0], 1);
  EXPECT_LT(counts[0], counts[2]);
}

// For the other nodes, the first bucket is there before the last has been computed: with this seed,
// a wait runs no more than it needs.
using EmulatedBucketedReplica = EmulatedReplica;
TEST_P(EmulatedBucketedReplica, GradientsLeaveBucketByBucket) {
  Machine machine({.seed = 1});
  const auto model = build_model(job_.model, job_.input_shape, job_.classes).value();
  const auto replica = Replica::create(job_, *model, 1, [&](int index) {
                         return make_cuda_device(index, numerics_, cuda_);
                       }).value();
  const auto ranges = replica->device_ranges({0, job_.partitions});
  for (int64_t t = 0; t < kSteps; ++t) {
    const auto roots = replica->take_roots(t, ranges, false).value();
    std::vector<FlatRange> ready;
    std::vector<int64_t> executed;
    const auto note = [&](int64_t begin, int64_t end) {
      ready.push_back({begin, end});
      executed.push_back(machine.executed());
    };
    ASSERT_TRUE(replica->compute(t, ranges, batches_of(t, ranges), note).ok());
    ASSERT_GE(ready.size(), 2u);
    EXPECT_EQ(ready.front().end, replica->graph().flat_size);
    EXPECT_EQ(ready.back().begin, 0);
    for (size_t i = 1; i < ready.size(); ++i) EXPECT_EQ(ready[i].end, ready[i - 1].begin);
    // Of the first step everything leaves at its end.
    if (t > 0) {
      EXPECT_GT(executed.back() - executed.front(), job_.partitions);
    }
    ASSERT_TRUE(replica->update(nullptr, roots).ok());
  }
}

Trace EmulatedReplica::run_on_two_nodes(int devices, uint64_t seed) {
  Machine machine({.devices = 2 * devices, .seed = seed});
  const auto model = build_model(job_.model, job_.input_shape, job_.classes).value();
  std::vector<std::unique_ptr<Replica>> nodes;
  for (const int first : {0, devices}) {
    nodes.push_back(Replica::create(job_, *model, devices, [&](int index) {
                      return make_cuda_device(first + index, numerics_, cuda_);
                    }).value());
  }
  Trace trace;
  for (int64_t t = 0; t < kSteps; ++t) {
    std::vector<TreePiece> pieces;
    for (size_t i = 0; i < 2; ++i) {
      const int half = job_.partitions / 2, begin = static_cast<int>(i) * half;
      const auto ranges = nodes[i]->device_ranges({begin, begin + half});
      const auto roots = nodes[i]->take_roots(t, ranges, false).value();
      EXPECT_TRUE(
          nodes[i]->compute(t, ranges, batches_of(t, ranges), [](int64_t, int64_t) {}).ok());
      for (const LocalRoot& root : roots) pieces.push_back({root.subtree, root.values});
    }
    std::vector<float> sum(static_cast<size_t>(nodes[0]->graph().flat_size));
    tree_sum_range(nodes[0]->adder(), pieces, root_subtree(job_.partitions),
                   static_cast<int64_t>(sum.size()), sum.data());
    for (const auto& node : nodes) {
      trace.losses.push_back(node->update(sum.data(), {}).value().at(0));
      trace.digests.push_back(node->state().digest);
    }
  }
  trace.state = nodes[1]->encode_state().value();
  EXPECT_EQ(nodes[0]->encode_state().value(), trace.state);
  return trace;
}

TEST_P(EmulatedReplica, IsTheSameOnTwoNodes) {
  for (const char* numerics : {"cuda-fp32", "cuda-bf16"}) {
    if (GetParam() == "mlp" && numerics == std::string("cuda-bf16")) continue;  // lenet has all
    numerics_ = numerics;
    const Trace one = run_on_gpus(1, true, 1);
    ASSERT_FALSE(HasFatalFailure());
    for (const int devices : {1, 2}) {
      const Trace two = run_on_two_nodes(devices, 1);
      EXPECT_EQ(two.state, one.state) << numerics << ", " << devices << " GPUs a node";
      ASSERT_EQ(two.digests.size(), size_t{2 * kSteps});
      for (size_t i = 0; i < two.digests.size(); ++i) {
        EXPECT_EQ(two.digests[i], one.digests[i / 2]);
        EXPECT_EQ(two.losses[i], one.losses[i / 2]);
      }
    }
  }
}

// Losses within 1 % of float32's; other bits, and the same ones on any number of GPUs. Plain SGD:
// Adam's first steps make a large difference of a small one.
TEST_P(EmulatedReplica, IsTheSameInBf16) {
  const nlohmann::json sgd = {{"name", "sgd"}, {"learning_rate", 0.01}};
  job_.optimizer = Optimizer::create(sgd).value().config();
  const Trace exact = run_on_gpus(1, true, 1);
  numerics_ = "cuda-bf16";
  const Trace one = run_on_gpus(1, true, 1);
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_NE(one.digests, exact.digests);
  ASSERT_EQ(one.losses.size(), exact.losses.size());
  for (size_t i = 0; i < one.losses.size(); ++i) {
    EXPECT_NEAR(one.losses[i], exact.losses[i], 0.01 * exact.losses[i]);
  }
  EXPECT_TRUE(run_on_gpus(2, false, 2) == one);
  EXPECT_TRUE(run_on_gpus(4, true, 4) == one);
}

// Gradients are added by NCCL: near the exact ones, not equal, and the same on all GPUs. What
// another node sees is the exact sum.
using EmulatedSummedReplica = EmulatedReplica;
TEST_P(EmulatedSummedReplica, IsNearWhereItIsNotExact) {
  const Trace exact = run_on_gpus(1, true, 1);
  ASSERT_FALSE(HasFatalFailure());
  job_.exact = false;
  EXPECT_TRUE(run_on_gpus(1, true, 1) == exact) << "one GPU";
  EXPECT_TRUE(run_on_gpus(2, true, 3, false) == exact) << "through the host";
  EXPECT_TRUE(run_on_gpus(2, false, 2) == exact) << "for another node";
  int others = 0;
  for (const int devices : {2, 3, 4}) {
    const auto seed = static_cast<uint64_t>(devices);
    const Trace near = run_on_gpus(devices, true, seed);
    ASSERT_FALSE(HasFatalFailure()) << devices << " GPUs";
    if (devices == 3) {
      EXPECT_TRUE(run_on_gpus(devices, true, seed) == near) << "again";
    }
    ASSERT_EQ(near.losses.size(), exact.losses.size());
    for (size_t i = 0; i < near.losses.size(); ++i) {
      EXPECT_NEAR(near.losses[i], exact.losses[i], 1e-4);
    }
    others += near == exact ? 0 : 1;
  }
  EXPECT_GT(others, 0);
}

TEST_P(EmulatedSummedReplica, AddsNothingForAnIdleGpu) {
  job_.exact = false;
  job_.partitions = 2;
  const Trace two = run_on_gpus(2, true, 1);
  const Trace four = run_on_gpus(4, true, 1);
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_EQ(four.losses.size(), two.losses.size());
  for (size_t i = 0; i < two.losses.size(); ++i) EXPECT_NEAR(four.losses[i], two.losses[i], 1e-4);
}

// With norms, sums along axes and products of matrices: many launches, of one model.
using EmulatedWholeReplica = EmulatedReplica;
TEST_P(EmulatedWholeReplica, LooksAtWholeParameters) {
  for (const char* optimizer :
       {R"({"name": "lamb", "global_clipnorm": 0.1})", R"({"name": "adafactor", "clipnorm": 0.1})",
        R"({"name": "muon", "ns_steps": 1, "use_ema": true})"}) {
    job_.optimizer = Optimizer::create(nlohmann::json::parse(optimizer)).value().config();
    const Trace one = run_on_gpus(1, true, 1);
    ASSERT_FALSE(HasFatalFailure());
    EXPECT_NE(one.digests[0], one.digests[1]);
    EXPECT_TRUE(run_on_gpus(2, false, 2) == one) << optimizer;
    const auto on_cpu = [](int) { return make_cpu_device("cpu-avx2"); };
    const Trace cpu = run(1, true, on_cpu);
    EXPECT_TRUE(run(3, true, on_cpu) == cpu) << optimizer;
  }
}

// The first step's error on a GPU of which somebody else has so much that the activations of a
// batch of `room_for` just fit.
std::string EmulatedReplica::error_with_room(int64_t batch_size, int64_t room_for) {
  job_.batch_size = batch_size;
  Machine machine;
  const auto factory = [this](int index) { return make_cuda_device(index, numerics_); };
  const auto other = factory(0).value();
  const auto model = build_model(job_.model, job_.input_shape, job_.classes).value();
  const auto replica = Replica::create(job_, *model, 1, factory).value();
  const auto ranges = replica->device_ranges({0, job_.partitions});
  const auto roots = replica->take_roots(0, ranges, true).value();
  const int64_t room = other->buffer_bytes(Program::planned_bytes(
      *other, replica->graph(), partition_group(room_for, job_.partitions, ranges[0])));
  const auto taken = other->allocate(other->free_bytes().value() - room).value();
  const Status computed =
      replica->compute(0, ranges, batches_of(0, ranges), [](int64_t, int64_t) {});
  return computed.ok() ? "" : computed.error().message;
}

// Of two GPUs what the replica takes; without what a device has for itself.
TEST_P(EmulatedReplica, TakesTheMemoryOfItsPlan) {
  for (const bool alone : {true, false}) {
    Machine machine({.devices = 2});
    const auto factory = [&](int index) { return make_cuda_device(index, numerics_, cuda_); };
    const auto first = factory(0).value(), second = factory(1).value();
    const auto free = [&] { return first->free_bytes().value() + second->free_bytes().value(); };
    const int64_t before = free();
    const auto third = factory(0).value(), fourth = factory(1).value();
    const int64_t of_devices = before - free();
    const auto model = build_model(job_.model, job_.input_shape, job_.classes).value();
    const auto replica = Replica::create(job_, *model, 2, factory).value();
    LoaderOptions options = loading();
    options.devices = replica->device_list();
    BatchLoader loader(data_, options);
    Trace trace;
    for (int64_t t = 0; t < kSteps; ++t) step(*replica, loader, alone, &trace);
    const auto used = static_cast<double>(before - 2 * of_devices - free());
    const auto planned = static_cast<double>(replica->memory({0, job_.partitions}, alone).total());
    EXPECT_NEAR(used / planned, 1, 0.1) << used << " of " << planned << (alone ? " alone" : "");
  }
}

TEST_P(EmulatedReplica, SaysWhichBatchFits) {
  for (const char* numerics : {"cuda-fp32", "cuda-bf16"}) {
    numerics_ = numerics;
    const std::string error = error_with_room(64, 40);
    const std::string before = "at most --batch-size ";
    ASSERT_NE(error.find(before), std::string::npos) << error;
    const int64_t fitting = std::stoll(error.substr(error.find(before) + before.size()));
    EXPECT_GE(fitting, job_.partitions);
    EXPECT_LT(fitting, 64);
    EXPECT_EQ(error_with_room(fitting, 40), "");
    EXPECT_NE(error_with_room(fitting + 2 * job_.partitions, 40).find(before), std::string::npos);
    EXPECT_NE(error_with_room(64, 2).find("no batch fits here"), std::string::npos);
  }
}

TEST_P(EmulatedReplica, LosesWhatTheCpuLoses) {
  const Trace gpu = run_on_gpus(2, true, 1);
  const Trace cpu = run(1, true, [](int) { return make_cpu_device("cpu-avx2"); });
  ASSERT_EQ(gpu.losses.size(), cpu.losses.size());
  for (size_t i = 0; i < gpu.losses.size(); ++i) EXPECT_NEAR(gpu.losses[i], cpu.losses[i], 1e-2);
}

INSTANTIATE_TEST_SUITE_P(models, EmulatedReplica, testing::Values("mlp", "lenet"),
                         [](const auto& name) { return name.param; });
INSTANTIATE_TEST_SUITE_P(models, EmulatedSummedReplica, testing::Values("mlp"),
                         [](const auto& name) { return name.param; });
INSTANTIATE_TEST_SUITE_P(models, EmulatedBucketedReplica, testing::Values("lenet"),
                         [](const auto& name) { return name.param; });
INSTANTIATE_TEST_SUITE_P(models, EmulatedWholeReplica, testing::Values("lenet"),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace lockstep
