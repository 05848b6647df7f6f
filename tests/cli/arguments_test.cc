#include "host/cli/arguments.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "host/job/run_options.h"

namespace lockstep {
namespace {

// Sets a variable for the life of the object.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Variable() { ::unsetenv(name_); }

 private:
  const char* name_;
};

TEST(Arguments, RunOptionsFromFlagsAndTheEnvironment) {
  const Variable nodes("LOCKSTEP_NODES", "2:5");
  const Variable every("LOCKSTEP_CHECKPOINT_EVERY", "500steps");
  const auto values =
      parse_arguments(run_options(), {"--checkpoint-every=7", "--verify-every", "0"});
  ASSERT_TRUE(values.ok()) << values.error().message;
  const auto run = run_options_from(*values);
  ASSERT_TRUE(run.ok()) << run.error().message;
  EXPECT_EQ(run->nodes, (NodeCounts{2, 2, 5}));
  EXPECT_EQ(run->checkpoint_every, (CheckpointInterval{7'000, 0}));
  EXPECT_EQ(run->verify_every, 0);
}

TEST(Arguments, TheBaseStandsBetweenDefaultsAndAllElse) {
  const Variable keep("LOCKSTEP_KEEP_CHECKPOINTS", "8");
  const nlohmann::json base = {{"keep_checkpoints", 7}, {"verify_every", 7}, {"nodes", "7"}};
  const auto values = parse_arguments(run_options(), {"--verify-every", "9"}, base);
  ASSERT_TRUE(values.ok());
  EXPECT_EQ(values->at("keep_checkpoints"), 8);
  EXPECT_EQ(values->at("verify_every"), 9);
  EXPECT_EQ(values->at("nodes"), "7");
  EXPECT_EQ(values->at("checkpoint_every"), "60s");
}

}  // namespace
}  // namespace lockstep
