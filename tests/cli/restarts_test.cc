#include "host/cli/restarts.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(RestartPolicy, WaitsLongerEachTimeAndGivesUp) {
  RestartPolicy policy;
  for (const int delay_ms : {200, 400, 800, 1600, 3200}) {
    EXPECT_EQ(policy.after_failure(50, false), delay_ms);
  }
  EXPECT_EQ(policy.after_failure(50, false), std::nullopt);
}

TEST(RestartPolicy, NeverGivesUpOnOneThatWorks) {
  RestartPolicy policy;
  for (int i = 0; i < 100; ++i) {
    const auto delay_ms = policy.after_failure(50, true);
    ASSERT_TRUE(delay_ms);
    EXPECT_LE(*delay_ms, RestartPolicy::kLongestDelayMs);
  }
}

TEST(RestartPolicy, ALongLifeIsANewBeginning) {
  RestartPolicy policy;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(policy.after_failure(50, false));
  EXPECT_EQ(policy.after_failure(RestartPolicy::kLongLifeMs, false), 200);
  EXPECT_EQ(policy.after_failure(50, false), 400);
}

}  // namespace
}  // namespace lockstep
