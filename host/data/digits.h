// A generated data set of drawn digits, 28 x 28 x 1, for trying things out without any download.
// Made so that it needs more than a linear model: polarity, place, slant and stray strokes vary.
#pragma once

#include <cstdint>
#include <string>

#include "host/core/result.h"
#include "host/data/dataset.h"

namespace lockstep {

inline constexpr int64_t kDefaultDigitsRows = 12000;
inline constexpr int64_t kMaxDigitsRows = 1000000;
inline constexpr int64_t kDigitsSide = 28;

// Training rows of "digits" or "digits:ROWS"; a usage error for any other spec.
Result<int64_t> digits_training_rows(const std::string& spec);

// The rows of a split: `training_rows` of them, or a sixth as many (at least 1) for testing. Row i
// depends on (split, i) alone, its class is i mod 10, and its bytes are the same on every machine:
// only operations that IEEE 754 defines exactly are used.
Dataset make_digits(int64_t training_rows, Split split);

}  // namespace lockstep
