// Values or errors, and the macros that pass errors on.
#include "host/core/result.h"

#include <gtest/gtest.h>

#include <memory>

namespace lockstep {
namespace {

Result<int> half_of(int number) {
  if (number % 2 != 0) return usage_error("odd");
  return number / 2;
}

Result<int> quarter_of(int number) {
  LOCKSTEP_ASSIGN(const int half, half_of(number));
  LOCKSTEP_ASSIGN(const int quarter, half_of(half));
  return quarter;
}

Status check_quarter(int number) {
  LOCKSTEP_RETURN_IF_ERROR(quarter_of(number));
  return {};
}

Result<std::unique_ptr<int>> boxed(int number) {
  LOCKSTEP_ASSIGN(int half, half_of(number));
  return std::make_unique<int>(half);
}

TEST(Result, HoldsAValue) {
  const Result<int> result = half_of(8);
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(static_cast<bool>(result));
  EXPECT_EQ(4, result.value());
  EXPECT_EQ(4, *result);
}

TEST(Result, HoldsAnError) {
  const Result<int> result = half_of(7);
  EXPECT_FALSE(result.ok());
  EXPECT_FALSE(static_cast<bool>(result));
  EXPECT_EQ("odd", result.error().message);
  EXPECT_EQ(ErrorKind::usage, result.error().kind);
}

TEST(Result, AssignReturnsTheFirstError) {
  EXPECT_EQ(3, *quarter_of(12));
  EXPECT_EQ("odd", quarter_of(7).error().message);
  EXPECT_EQ("odd", quarter_of(6).error().message);
}

TEST(Result, StatusPassesErrorsOn) {
  EXPECT_TRUE(check_quarter(8).ok());
  EXPECT_EQ(ErrorKind::usage, check_quarter(2).error().kind);
}

TEST(Result, HoldsWhatOnlyMoves) {
  auto result = boxed(10);
  ASSERT_TRUE(result.ok());
  const std::unique_ptr<int> box = std::move(result).value();
  EXPECT_EQ(5, *box);
  EXPECT_FALSE(boxed(11).ok());
}

TEST(Result, ChangesInPlace) {
  Result<std::string> result(std::string("a"));
  result->append("b");
  *result += "c";
  EXPECT_EQ("abc", result.value());
}

// The numbers are exit codes that scripts rely on.
TEST(Error, KindsAreExitCodes) {
  EXPECT_EQ(1, static_cast<int>(Error{"x"}.kind));
  EXPECT_EQ(2, static_cast<int>(usage_error("x").kind));
  EXPECT_EQ(3, static_cast<int>(ErrorKind::halted));
  EXPECT_EQ(4, static_cast<int>(refused_error("x").kind));
}

}  // namespace
}  // namespace lockstep
