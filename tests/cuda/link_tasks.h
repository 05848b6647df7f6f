// What tests do with the links between GPUs, emulated or real.
#pragma once

#include <functional>
#include <memory>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "cuda/cuda_device.h"
#include "host/device/device_link.h"

namespace lockstep {

inline constexpr int64_t kShare = 100;

// What one GPU does with its link; runs in a thread of its own.
using Task = std::function<Status(int index, Device& device, DeviceLink& link)>;

// The GPUs, linked, each with `task`.
inline std::vector<Status> run_linked(int devices, int timeout_ms, const Task& task) {
  std::vector<std::unique_ptr<Device>> made;
  for (int index = 0; index < devices; ++index) {
    auto device = make_cuda_device(index, "cuda-fp32");
    if (!device.ok()) return {device.error()};
    made.push_back(std::move(device).value());
  }
  const auto id = made[0]->link_id();
  if (!id.ok()) return {id.error()};
  std::vector<Status> statuses(made.size());
  std::vector<std::unique_ptr<DeviceLink>> links(made.size());  // kept until all have ended
  std::vector<std::thread> threads;
  for (int index = 0; index < devices; ++index) {
    threads.emplace_back([&, index] {
      const auto at = static_cast<size_t>(index);
      made[at]->attach_thread();
      auto link = made[at]->link({*id, index, devices, timeout_ms});
      if (link.ok()) links[at] = std::move(link).value();
      statuses[at] = links[at] ? task(index, *made[at], *links[at]) : Status{link.error()};
    });
  }
  for (std::thread& thread : threads) thread.join();
  return statuses;
}

// GPU g adds its share of everybody's vector, then all get all shares. `between` runs before the
// last copy to the host.
inline Status sum_of_all(int devices, int index, Device& device, DeviceLink& link,
                         const std::function<Status()>& between, std::vector<float>* result) {
  const int64_t size = devices * kShare;
  std::vector<float> values(static_cast<size_t>(size));
  std::iota(values.begin(), values.end(), 1000.0f * static_cast<float>(index));
  LOCKSTEP_ASSIGN(const auto own, device.allocate(size * 4));
  LOCKSTEP_ASSIGN(const auto whole, device.allocate(size * 4));
  LOCKSTEP_ASSIGN(const auto received, device.allocate(size * 4));
  LOCKSTEP_RETURN_IF_ERROR(device.copy_to_device(values.data(), size, own->data()));
  std::vector<DeviceLink::Transfer> sends;
  std::vector<DeviceLink::Transfer> receives;
  std::vector<SumTerm> terms;
  for (int peer = 0; peer < devices; ++peer) {
    float* piece = own->data() + kShare * index;
    if (peer != index) {
      piece = received->data() + kShare * peer;
      sends.push_back({peer, own->data() + kShare * peer, kShare});
      receives.push_back({peer, piece, kShare});
    }
    terms.push_back({piece, peer > 0 ? 1 : 0});
  }
  LOCKSTEP_RETURN_IF_ERROR(link.exchange(sends, receives));
  LOCKSTEP_RETURN_IF_ERROR(device.sum(terms, kShare, whole->data() + kShare * index));
  LOCKSTEP_RETURN_IF_ERROR(link.all_gather(whole->data(), kShare));
  LOCKSTEP_RETURN_IF_ERROR(between());
  result->resize(static_cast<size_t>(size));
  return device.copy_to_host(whole->data(), size, result->data());
}

inline std::vector<Status> sum_on(int devices, std::vector<std::vector<float>>* results,
                                  int timeout_ms = 30'000) {
  results->resize(static_cast<size_t>(devices));
  return run_linked(devices, timeout_ms, [&](int index, Device& device, DeviceLink& link) {
    return sum_of_all(
        devices, index, device, link, [&] { return link.finish(); },
        &(*results)[static_cast<size_t>(index)]);
  });
}

// The same sums by the links themselves; each GPU calls with `count` values of its vector.
inline std::vector<Status> reduce_on(int devices, std::vector<std::vector<float>>* results,
                                     int timeout_ms = 30'000,
                                     const std::function<int64_t(int index)>& count = nullptr) {
  results->resize(static_cast<size_t>(devices));
  const int64_t size = devices * kShare;
  return run_linked(
      devices, timeout_ms, [&](int index, Device& device, DeviceLink& link) -> Status {
        std::vector<float> values(static_cast<size_t>(size));
        std::iota(values.begin(), values.end(), 1000.0f * static_cast<float>(index));
        LOCKSTEP_ASSIGN(const auto memory, device.allocate(size * 4));
        LOCKSTEP_RETURN_IF_ERROR(device.copy_to_device(values.data(), size, memory->data()));
        LOCKSTEP_RETURN_IF_ERROR(link.all_reduce(memory->data(), count ? count(index) : size));
        LOCKSTEP_RETURN_IF_ERROR(link.finish());
        LOCKSTEP_RETURN_IF_ERROR(device.copy_to_host(memory->data(), size, values.data()));
        (*results)[static_cast<size_t>(index)] = std::move(values);
        return {};
      });
}

inline std::vector<float> expected_sum(int devices) {
  std::vector<float> sum(static_cast<size_t>(devices * kShare));
  for (size_t i = 0; i < sum.size(); ++i) {
    for (int g = 0; g < devices; ++g)
      sum[i] += static_cast<float>(i) + 1000.0f * static_cast<float>(g);
  }
  return sum;
}

}  // namespace lockstep
