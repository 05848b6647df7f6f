// Where a node stands, for logs and monitoring: written by its session, read by any thread.
#pragma once

#include <atomic>
#include <cstdint>

namespace lockstep {

struct NodeGauges {
  std::atomic<uint64_t> job{0};  // the first 12 digits of the recipe's hash; 0: none yet
  std::atomic<int64_t> term{0};
  std::atomic<int64_t> view{0};  // 0: in none yet
  std::atomic<int64_t> step{0};
  // Tensors to and from other nodes.
  struct Path {
    std::atomic<int64_t> sent_bytes{0};
    std::atomic<int64_t> received_bytes{0};
  };
  Path memory;  // shared, on one host
  Path network;
  std::atomic<int64_t> frames_waiting{0};  // queued for other nodes
};

}  // namespace lockstep
