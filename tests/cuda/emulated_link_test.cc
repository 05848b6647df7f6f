// Links between emulated GPUs: what is moved, in the order of each GPU's work, and what happens
// where a GPU stops.
#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "tests/cuda/link_tasks.h"
#include "tests/emulated_cuda/memory.h"
#include "tests/emulated_cuda/planted.h"
#include "tests/emulated_cuda/runtime.h"
#include "tests/emulated_cuda/toy.h"

namespace lockstep {
namespace {

using emulated::Bug;
using emulated::Machine;

constexpr int kShortMs = 200;

TEST(EmulatedLink, MovesInTheOrderOfEachGpusWork) {
  for (const int devices : {2, 3, 4}) {
    for (uint64_t seed = 1; seed <= 32; ++seed) {
      Machine machine({.devices = devices, .seed = seed});
      std::vector<std::vector<float>> results;
      for (const Status& status : sum_on(devices, &results)) {
        ASSERT_TRUE(status.ok()) << status.error().message;
      }
      for (const auto& result : results) ASSERT_EQ(result, expected_sum(devices)) << seed;
      ASSERT_EQ(machine.leaks(), "");
    }
  }
}

TEST(EmulatedLink, AddsInTheOrderOfEachGpusWork) {
  for (const int devices : {2, 3, 4}) {
    for (uint64_t seed = 1; seed <= 32; ++seed) {
      Machine machine({.devices = devices, .seed = seed});
      std::vector<std::vector<float>> results;
      for (const Status& status : reduce_on(devices, &results)) {
        ASSERT_TRUE(status.ok()) << status.error().message;
      }
      for (const auto& result : results) ASSERT_EQ(result, expected_sum(devices)) << seed;
      ASSERT_EQ(machine.leaks(), "");
    }
  }
}

TEST(EmulatedLink, ASumThatStallsIsAnErrorAfterTheDeadline) {
  Machine machine({.devices = 2});
  machine.plant(Bug::stalled_transfer, 1);
  std::vector<std::vector<float>> results;
  for (const Status& status : reduce_on(2, &results, kShortMs)) {
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().message.find("has stopped"), std::string::npos)
        << status.error().message;
  }
  EXPECT_EQ(machine.leaks(), "");
}

TEST(EmulatedLink, ASumThatFailsIsNamed) {
  Machine machine({.devices = 2});
  machine.fail_call("ncclAllReduce", 1);
  std::vector<std::vector<float>> results;
  std::string all;
  for (const Status& status : reduce_on(2, &results, kShortMs)) {
    if (!status.ok()) all += status.error().message + "\n";
  }
  EXPECT_EQ(machine.failed_call(), "ncclAllReduce");
  EXPECT_NE(all.find("ncclAllReduce"), std::string::npos) << all;
  EXPECT_EQ(machine.leaks(), "");
}

TEST(EmulatedLink, ATransferThatStallsIsAnErrorAfterTheDeadline) {
  for (int64_t n = 1; n <= 3; ++n) {  // a send, the other, the gather
    Machine machine({.devices = 2});
    machine.plant(Bug::stalled_transfer, n);
    std::vector<std::vector<float>> results;
    for (const Status& status : sum_on(2, &results, kShortMs)) {
      ASSERT_FALSE(status.ok()) << n;
      EXPECT_NE(status.error().message.find("has stopped"), std::string::npos)
          << status.error().message;
    }
    EXPECT_EQ(machine.leaks(), "");
  }
}

TEST(EmulatedLink, AGpuThatDoesNotCallIsAnErrorForTheOthers) {
  Machine machine({.devices = 2});
  std::vector<float> result;
  const auto statuses =
      run_linked(2, kShortMs, [&](int index, Device& device, DeviceLink& link) -> Status {
        if (index == 1) return Error{"given up"};
        return sum_of_all(
            2, index, device, link, [&] { return link.finish(); }, &result);
      });
  ASSERT_FALSE(statuses[0].ok());
  EXPECT_NE(statuses[0].error().message.find("GPU 0: waited 200 ms"), std::string::npos)
      << statuses[0].error().message;
  EXPECT_EQ(machine.leaks(), "");
}

TEST(EmulatedLink, APeerThatIsLostIsTold) {
  Machine machine({.devices = 2});
  machine.plant(Bug::lost_peer, 6);
  std::vector<std::vector<float>> results;
  const auto statuses = sum_on(2, &results, kShortMs);
  std::string all;
  for (const Status& status : statuses) all += status.ok() ? "" : status.error().message;
  EXPECT_NE(all.find("remote process exited"), std::string::npos) << all;
  EXPECT_EQ(machine.leaks(), "");
}

TEST(EmulatedLink, EachCallThatFailsIsNamed) {
  for (const std::string call :
       {"ncclGetUniqueId", "ncclCommInitRankConfig", "ncclCommGetAsyncError", "ncclGroupStart",
        "ncclGroupEnd", "ncclSend", "ncclRecv", "ncclAllGather", "cudaStreamQuery"}) {
    Machine machine({.devices = 2});
    machine.fail_call(call, 1);
    std::vector<std::vector<float>> results;
    std::string all;
    for (const Status& status : sum_on(2, &results, kShortMs)) {
      if (!status.ok()) all += status.error().message + "\n";
    }
    EXPECT_EQ(machine.failed_call(), call);
    EXPECT_NE(all.find(call), std::string::npos) << call << ": " << all;
    EXPECT_EQ(machine.leaks(), "") << call;
  }
}

// Mistakes in the use of links, each found.
class EmulatedLinkPlanted : public testing::Test {
 protected:
  void expect_found(const char* defect, int devices, const Task& task) {
    expect_found(defect, devices, [&] {
      bool right = true;
      for (const Status& status : run_linked(devices, kShortMs, task)) right &= status.ok();
      return right;
    });
  }
  void expect_found(const char* defect, int devices, const std::function<bool()>& scenario) {
    const emulated::Tally tally = emulated::watch_seeds([&](uint64_t seed) {
      Machine machine({.devices = devices, .seed = seed});
      return scenario();
    });
    std::printf("%-52s %d of %d seeds: %s\n", defect, tally.found, tally.tried, tally.how.c_str());
    EXPECT_GT(tally.found, 0) << defect;
  }
};

TEST_F(EmulatedLinkPlanted, CallsInAnotherOrder) {
  expect_found("NCCL calls in different order", 2,
               [](int index, Device& device, DeviceLink& link) -> Status {
                 LOCKSTEP_ASSIGN(const auto memory, device.allocate(4 * kShare * 4));
                 const DeviceLink::Transfer send{1 - index, memory->data(), kShare};
                 const DeviceLink::Transfer receive{1 - index, memory->data() + kShare, kShare};
                 float* all = memory->data() + 2 * kShare;
                 if (index == 0) LOCKSTEP_RETURN_IF_ERROR(link.all_gather(all, kShare));
                 LOCKSTEP_RETURN_IF_ERROR(link.exchange({&send, 1}, {&receive, 1}));
                 if (index == 1) LOCKSTEP_RETURN_IF_ERROR(link.all_gather(all, kShare));
                 return link.finish();
               });
}

TEST_F(EmulatedLinkPlanted, SizesThatDiffer) {
  expect_found("NCCL sizes that differ", 2,
               [](int index, Device& device, DeviceLink& link) -> Status {
                 LOCKSTEP_ASSIGN(const auto memory, device.allocate(2 * kShare * 4));
                 const int64_t count = kShare - index;
                 const DeviceLink::Transfer send{1 - index, memory->data(), kShare};
                 const DeviceLink::Transfer receive{1 - index, memory->data() + kShare, count};
                 LOCKSTEP_RETURN_IF_ERROR(link.exchange({&send, 1}, {&receive, 1}));
                 return link.finish();
               });
}

TEST_F(EmulatedLinkPlanted, SumsOfTheWrongCount) {
  const auto sums_are_right = [](const std::function<int64_t(int)>& count) {
    std::vector<std::vector<float>> results;
    bool right = true;
    for (const Status& status : reduce_on(2, &results, kShortMs, count)) right &= status.ok();
    for (const auto& result : results) right &= result == expected_sum(2);
    return right;
  };
  EXPECT_FALSE(emulated::watch([&] {
                 Machine machine({.devices = 2});
                 return sums_are_right([](int) { return 2 * kShare; });
               }).found);
  expect_found("ncclAllReduce of fewer values on one GPU", 2,
               [&] { return sums_are_right([](int index) { return 2 * kShare - index; }); });
  expect_found("ncclAllReduce of one value too few", 2,
               [&] { return sums_are_right([](int) { return 2 * kShare - 1; }); });
}

TEST_F(EmulatedLinkPlanted, AGatherHereASumThere) {
  expect_found(
      "ncclAllGather on one GPU, ncclAllReduce on another", 2,
      [](int index, Device& device, DeviceLink& link) -> Status {
        LOCKSTEP_ASSIGN(const auto memory, device.allocate(2 * kShare * 4));
        const std::vector<float> ones(2 * kShare, 1.0f);
        LOCKSTEP_RETURN_IF_ERROR(device.copy_to_device(ones.data(), 2 * kShare, memory->data()));
        LOCKSTEP_RETURN_IF_ERROR(index == 0 ? link.all_gather(memory->data(), kShare)
                                            : link.all_reduce(memory->data(), kShare));
        return link.finish();
      });
}

TEST_F(EmulatedLinkPlanted, AWaitWithoutADeadline) {
  expect_found("a wait for NCCL without a deadline", 2,
               [](int index, Device& device, DeviceLink& link) {
                 std::vector<float> result;
                 if (index == 1) return Status{};  // never calls
                 return sum_of_all(
                     2, index, device, link, [] { return Status{}; }, &result);
               });
}

TEST_F(EmulatedLinkPlanted, AMoveBesideTheWork) {
  // What is sent is still being written, on another stream than the link's.
  expect_found(
      "NCCL sends before the work on another stream", 2,
      [](int index, Device& device, DeviceLink& link) -> Status {
        LOCKSTEP_ASSIGN(const auto memory, device.allocate(2 * kShare * 4));
        emulated::TestGpu other;
        const std::vector<float> ones(kShare, 1.0f);
        LOCKSTEP_CHECK(cudaMemcpyAsync(memory->data(), ones.data(), kShare * 4,
                                       cudaMemcpyHostToDevice, other.stream()) == cudaSuccess);
        const DeviceLink::Transfer send{1 - index, memory->data(), kShare};
        const DeviceLink::Transfer receive{1 - index, memory->data() + kShare, kShare};
        LOCKSTEP_RETURN_IF_ERROR(link.exchange({&send, 1}, {&receive, 1}));
        LOCKSTEP_RETURN_IF_ERROR(link.finish());
        std::vector<float> came(kShare);
        LOCKSTEP_RETURN_IF_ERROR(device.copy_to_host(memory->data() + kShare, kShare, came.data()));
        LOCKSTEP_CHECK(cudaStreamSynchronize(other.stream()) == cudaSuccess);
        return came == ones ? Status{} : Status{Error{"other values"}};
      });
}

}  // namespace
}  // namespace lockstep
