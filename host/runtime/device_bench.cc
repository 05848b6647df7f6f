#include "host/runtime/device_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "host/core/rng.h"
#include "host/job/data_job.h"

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kBatchesOfPass = 8;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Memory of each device, and collectives on it.
class LinkTest {
 public:
  LinkTest(DeviceTeam& team, int64_t share)
      : team_(team), share_(share), buffers_(static_cast<size_t>(team.size())) {}

  Status prepare() {
    return on_each([&](int index) -> Status {
      LOCKSTEP_ASSIGN(buffers_[static_cast<size_t>(index)],
                      team_.device(index).allocate(floats() * 4));
      return {};
    });
  }
  // The median of the seconds. Before the first round, which warms up, each device has its number
  // (from 1) everywhere; `check` looks at what that makes.
  Result<double> time(int rounds, const std::function<Status(int index)>& collective,
                      const std::function<Status()>& check) {
    LOCKSTEP_RETURN_IF_ERROR(on_each([&](int index) {
      const std::vector<float> values(static_cast<size_t>(floats()), static_cast<float>(index + 1));
      return team_.device(index).copy_to_device(values.data(), floats(), memory(index));
    }));
    std::vector<double> seconds;
    for (int round = 0; round <= rounds; ++round) {
      const auto begin = Clock::now();
      LOCKSTEP_RETURN_IF_ERROR(on_each([&](int index) {
        const Status called = collective(index);
        return called.ok() ? team_.link(index)->finish() : called;
      }));
      if (round > 0) seconds.push_back(seconds_since(begin));
      if (round == 0) LOCKSTEP_RETURN_IF_ERROR(check());
    }
    return median(seconds);
  }
  // Whether value `at` is `expected` on all devices.
  Status expect(int64_t at, float expected, const char* collective) {
    return on_each([&](int index) -> Status {
      float found = 0;
      LOCKSTEP_RETURN_IF_ERROR(team_.device(index).copy_to_host(memory(index) + at, 1, &found));
      if (found == expected) return {};
      return Error{
          fmt::format("{}: device {} has {} in place of {}", collective, index, found, expected)};
    });
  }
  Status on_each(const std::function<Status(int index)>& task) {
    std::vector<Status> statuses(buffers_.size());
    team_.run([&](int index) { statuses[static_cast<size_t>(index)] = task(index); });
    return first_error(statuses);
  }
  float* memory(int index) { return buffers_[static_cast<size_t>(index)]->data(); }
  int64_t floats() const { return share_ * team_.size(); }

 private:
  DeviceTeam& team_;
  const int64_t share_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

}  // namespace

Dataset random_dataset(const Shape& image, int64_t rows) {
  Images data;
  data.name = "random";
  data.row_shape = image;
  data.classes = 10;
  data.pixels.resize(static_cast<size_t>(rows * element_count(image)));
  for (size_t i = 0; i < data.pixels.size(); ++i) {
    data.pixels[i] = static_cast<uint8_t>(mix64(i));
  }
  for (int64_t row = 0; row < rows; ++row) {
    data.labels.push_back(static_cast<uint8_t>(mix64(static_cast<uint64_t>(row)) % 10));
  }
  return make_dataset(std::move(data));
}

Result<StepSeconds> measure_steps(Replica& replica, const Job& job, const Dataset& data,
                                  int64_t steps, bool digests) {
  const auto ranges = replica.device_ranges({0, job.partitions});
  LoaderOptions loading = training_loader(job, {0, data.rows()});
  loading.devices = replica.device_list();
  BatchLoader loader(data, std::move(loading));
  const int64_t warm_up = std::max<int64_t>(3, steps / 10);
  const auto request_of = [&](int64_t step) {
    return BatchRequest{step / kBatchesOfPass, step % kBatchesOfPass, ranges};
  };
  std::vector<double> seconds;
  std::vector<double> update_seconds;
  for (int64_t step = 0; step < steps + warm_up; ++step) {
    const auto begin = Clock::now();
    const auto batches = loader.take(request_of(step));
    loader.prefetch(request_of(step + 1));
    LOCKSTEP_ASSIGN(const auto roots, replica.take_roots(step, ranges, true));
    LOCKSTEP_RETURN_IF_ERROR(replica.compute(step, ranges, batches, [](int64_t, int64_t) {}));
    const auto computed = Clock::now();
    LOCKSTEP_RETURN_IF_ERROR(replica.update(nullptr, roots, digests));
    if (step < warm_up) continue;
    seconds.push_back(seconds_since(begin));
    update_seconds.push_back(seconds_since(computed));
  }
  return StepSeconds{median(seconds), median(update_seconds)};
}

Result<LinkSpeed> measure_links(DeviceTeam& team, int64_t floats, int rounds) {
  const int devices = team.size();
  if (devices < 2) return Error{"one device has no links: at least two are needed"};
  if (team.link(0) == nullptr) {
    return Error{"these devices exchange through the host's memory, not by links" +
                 (team.way().empty() ? "" : " (" + team.way() + ")")};
  }
  LinkTest test(team, std::max<int64_t>(1, floats / devices));
  LOCKSTEP_RETURN_IF_ERROR(test.prepare());
  const int64_t share = test.floats() / devices;
  LinkSpeed speed;
  LOCKSTEP_ASSIGN(
      speed.all_gather_seconds,
      test.time(
          rounds,
          [&](int index) { return team.link(index)->all_gather(test.memory(index), share); },
          [&] { return test.expect(share, 2, "all-gather"); }));
  const float sum = static_cast<float>(devices * (devices + 1)) / 2;
  LOCKSTEP_ASSIGN(speed.all_reduce_seconds,
                  test.time(
                      rounds,
                      [&](int index) {
                        return team.link(index)->all_reduce(test.memory(index), test.floats());
                      },
                      [&] { return test.expect(test.floats() - 1, sum, "all-reduce"); }));
  const double moved = 4.0 * static_cast<double>(share) * (devices - 1);
  speed.all_gather_bytes = moved / speed.all_gather_seconds;
  speed.all_reduce_bytes = 2 * moved / speed.all_reduce_seconds;
  return speed;
}

}  // namespace lockstep
