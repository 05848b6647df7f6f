// "Did you mean".
#include "host/core/suggest.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

const char* const kAdam = "adam";
const char* const kNadam = "nadam";
const char* const kSgd = "sgd";

TEST(NearestName, FindsOneTypoAway) {
  EXPECT_EQ(kAdam, nearest_name("adm", {kSgd, kAdam}));
  EXPECT_EQ(kAdam, nearest_name("adamm", {kSgd, kAdam}));
  EXPECT_EQ(kSgd, nearest_name("sdg", {kSgd, kAdam}));
  EXPECT_EQ("categorical_crossentropy",
            nearest_name("categorical_cross_entropy", {"mse", "categorical_crossentropy"}));
}

TEST(NearestName, TakesTheNearest) {
  EXPECT_EQ(kNadam, nearest_name("nadan", {kAdam, kNadam}));
  EXPECT_EQ(kAdam, nearest_name(kAdam, {kNadam, kAdam}));
}

TEST(NearestName, NothingNear) {
  EXPECT_EQ("", nearest_name("xyzzyx", {kSgd, kAdam}));
  EXPECT_EQ("", nearest_name("adam", {}));
}

TEST(UnknownName, SaysWhatIsKnown) {
  EXPECT_EQ("unknown optimizer 'adm'; did you mean 'adam'? Known: adam, sgd",
            unknown_name_message("optimizer", "adm", {kAdam, kSgd}));
  EXPECT_EQ("unknown optimizer 'xyzzyx'. Known: adam, sgd",
            unknown_name_message("optimizer", "xyzzyx", {kAdam, kSgd}));
}

}  // namespace
}  // namespace lockstep
