// Direct ways between the devices of a node.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "host/core/result.h"

namespace lockstep {

// One device's end of the ways to all the others. It moves: sums are the device's own work, so that
// their order stays the canonical tree's, but for all_reduce. All devices make the same calls in
// the same order, each from its own thread. What is moved takes its place in the order of the
// device's work.
class DeviceLink {
 public:
  // `count` elements at `memory`, to or from device `peer`. What one device sends another arrives
  // in the order in which it is sent.
  struct Transfer {
    int peer = 0;
    float* memory = nullptr;
    int64_t count = 0;
  };

  virtual ~DeviceLink() = default;
  virtual std::string description() const = 0;
  // All at once.
  virtual Status exchange(std::span<const Transfer> sends, std::span<const Transfer> receives) = 0;
  // `buffer` holds a share of `count` elements for each device, by index; this device's own is
  // there, the others' come.
  virtual Status all_gather(float* buffer, int64_t count) = 0;
  // values[i] = the sum of all devices' values[i], for i < count: the same bits on all of them, in
  // an order that is the link's own.
  virtual Status all_reduce(float* values, int64_t count) = 0;
  // Returns when the device has done all of its work. Call it before anything else that waits for
  // the device: a peer that is gone is an error here, after a deadline, and a hang there.
  virtual Status finish() = 0;
  // The same of an aside of the device alone (Device::finish_aside).
  virtual Status finish_aside(int index) = 0;
};

// What connects the devices of a node, given to each.
struct LinkOptions {
  std::string id;  // from Device::link_id of one of them
  int index = 0;
  int devices = 1;
  int timeout_ms = 30'000;  // without an answer of the others
};

}  // namespace lockstep
