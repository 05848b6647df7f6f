// Where the results of batches go.
#pragma once

#include <cstdint>
#include <string_view>

#include "host/core/result.h"

namespace lockstep {

class ResultSink {
 public:
  virtual ~ResultSink() = default;
  // Bytes of an array from `offset` on: whole results of batches or rows where they are small,
  // in any order, from any thread, and some of them twice.
  virtual Status write(int array, int64_t offset, std::string_view bytes) = 0;
};

}  // namespace lockstep
