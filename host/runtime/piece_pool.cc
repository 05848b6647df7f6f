#include "host/runtime/piece_pool.h"

namespace lockstep {

Result<std::shared_ptr<float>> PiecePool::take() {
  float* piece = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) {
      LOCKSTEP_ASSIGN(auto buffer,
                      device_.allocate_host(floats_ * static_cast<int64_t>(sizeof(float))));
      free_.push_back(buffer->data());
      buffers_.push_back(std::move(buffer));
    }
    piece = free_.back();
    free_.pop_back();
  }
  return std::shared_ptr<float>(piece, [pool = shared_from_this()](float* returned) {
    const std::lock_guard lock(pool->mutex_);
    pool->free_.push_back(returned);
  });
}

}  // namespace lockstep
