#include "host/runtime/state_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace lockstep {
namespace {

using testing::HasSubstr;

template <class... T>
std::string bytes_of(T... values) {
  std::string bytes;
  (bytes.append(reinterpret_cast<const char*>(&values), sizeof values), ...);
  return bytes;
}

StateHeader small_header(const MetricSums& sums) { return {7, 2, 3, sums}; }
const float kVectors[6] = {1, -0.0f, 2, 3, 4, 5};

std::string state_of(const StateHeader& header) {
  return encode_state_header(header) +
         std::string(reinterpret_cast<const char*>(kVectors), sizeof kVectors);
}

TEST(StateFile, IsReadAsItWasWritten) {
  const double tiny = std::numeric_limits<double>::denorm_min();
  for (const MetricSums& sums :
       {MetricSums{}, MetricSums{0.1, 58, 60}, MetricSums(kMaxMetricSums, tiny)}) {
    const std::string bytes = state_of(small_header(sums));
    EXPECT_EQ(std::ssize(bytes), state_bytes(2, 3, std::ssize(sums)));
    const auto view = decode_state(bytes);
    ASSERT_TRUE(view.ok()) << view.error().message;
    EXPECT_EQ(view->header.step, 7);
    EXPECT_EQ(view->header.sums, sums);
    ASSERT_EQ(view->vectors.size(), 3u);
    EXPECT_EQ(view->vectors[2], bytes_of(4.0f, 5.0f));
  }
}

TEST(StateFile, TheBytesAreFixed) {
  EXPECT_EQ(encode_state_header(small_header({0.5})),
            "LSSTATE2" + bytes_of(int64_t{7}, int64_t{2}, int64_t{3}, int64_t{1}, 0.5));
}

TEST(StateFile, TheFormatBeforeIsRead) {
  const std::string bytes =
      "LSSTATE1" + bytes_of(int64_t{7}, 0.1, int64_t{58}, int64_t{60}, int64_t{2}, int64_t{3});
  const std::string vectors(reinterpret_cast<const char*>(kVectors), sizeof kVectors);
  const std::string state = bytes + vectors;
  const auto view = decode_state(state);
  ASSERT_TRUE(view.ok()) << view.error().message;
  EXPECT_EQ(view->header.step, 7);
  EXPECT_EQ(view->header.sums, (MetricSums{0.1, 58, 60}));
  EXPECT_EQ(view->vectors.size(), 3u);
  const std::string now = state_of(small_header({0.1}));
  EXPECT_EQ(digest_of_state(*view), digest_of_state(*decode_state(now)));
  EXPECT_FALSE(decode_state(bytes).ok());
}

TEST(StateFile, WhatMakesNoSenseIsRefused) {
  const std::string good = state_of(small_header({0.1, 2}));
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(decode_state(good.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(decode_state(good + "x").ok());
  EXPECT_THAT(decode_state("LSSTATE3" + good.substr(8)).error().message,
              HasSubstr("not a training state of this version"));
  for (const size_t at : {16, 24, 32}) {  // parameters, vectors, sums
    for (const int64_t value : {int64_t{-1}, int64_t{0}, int64_t{1} << 61, INT64_MAX, INT64_MIN}) {
      std::string bytes = good;
      bytes.replace(at, 8, bytes_of(value));
      EXPECT_FALSE(decode_state(bytes).ok()) << at << " " << value;
    }
  }
}

}  // namespace
}  // namespace lockstep
