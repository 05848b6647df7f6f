// Broken invariants end the process and say where.
#include "host/core/check.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(CheckDeathTest, PrintsTheExpressionAndThePlace) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const int rows = 3;
  LOCKSTEP_CHECK(rows == 3);
  EXPECT_DEATH(LOCKSTEP_CHECK(rows < 3), "broken invariant: rows < 3 \\(.*check_test.cc:[0-9]+\\)");
}

}  // namespace
}  // namespace lockstep
