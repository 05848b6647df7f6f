// What the conversions ask of a number that came from the wire.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "host/core/metric_sums.h"
#include "host/core/result.h"

namespace lockstep {

inline Status not_negative(const char* field, int64_t value) {
  if (value >= 0) return {};
  return refused_error(fmt::format("bad message: {} is {}, must not be negative", field, value));
}

inline Status at_least(const char* field, int64_t value, int64_t least) {
  if (value >= least) return {};
  return refused_error(
      fmt::format("bad message: {} is {}, must be at least {}", field, value, least));
}

inline Status at_most_sums(const char* field, size_t count) {
  if (count <= static_cast<size_t>(kMaxMetricSums)) return {};
  return refused_error(fmt::format("bad message: {} has {} numbers, must have at most {}", field,
                                   count, kMaxMetricSums));
}

// A rate that a decision set.
inline Result<std::optional<double>> rate_from_wire(const char* field, double rate) {
  if (rate >= 0 && std::isfinite(rate)) return std::optional<double>(rate);
  return refused_error(fmt::format("bad message: {} is {}, must be at least 0", field, rate));
}

inline bool is_error_kind(int32_t kind) {
  return kind >= static_cast<int32_t>(ErrorKind::failed) &&
         kind <= static_cast<int32_t>(ErrorKind::refused);
}

}  // namespace lockstep
