// Memory for pieces of one size that come and go: the one used last is given first, since it is
// still in the cache. Thread-safe; what is out keeps the pool alive.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "host/core/result.h"
#include "host/device/device.h"

namespace lockstep {

class PiecePool : public std::enable_shared_from_this<PiecePool> {
 public:
  // `device` outlives the pool.
  PiecePool(Device& device, int64_t floats) : device_(device), floats_(floats) {}

  // Goes back to the pool with its last owner.
  Result<std::shared_ptr<float>> take();

 private:
  Device& device_;
  const int64_t floats_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<float*> free_;
};

}  // namespace lockstep
