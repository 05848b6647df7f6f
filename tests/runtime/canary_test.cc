#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "host/core/digest.h"
#include "host/core/files.h"
#include "host/cpu/cpu_device.h"
#include "host/job/options.h"
#include "host/runtime/replica.h"
#include "models/models.h"
#include "tests/support/source_folder.h"

namespace lockstep {
namespace {

std::vector<OpDigest> canary_of(const std::string& model_name, uint64_t seed) {
  nlohmann::json options = default_values(job_options());
  options["model"] = model_name;
  options["data"] = "digits:64";
  options["seed"] = seed;
  Job job = job_from_options(options).value();
  const Dataset data = load_dataset(job.data, Split::train).value();
  job.input_shape = data.row_shape;
  job.classes = data.classes;
  job.train_rows = data.rows();
  const auto model = build_model(job.model, job.input_shape, job.classes).value();
  const auto replica =
      Replica::create(job, *model, 1, [](int) { return make_cpu_device("cpu-avx2"); }).value();
  return replica->canary(data, {0, data.rows()}).value();
}

TEST(Canary, IsTheSameEachTimeAndFollowsTheRecipe) {
  EXPECT_EQ(canary_of("lenet", 0), canary_of("lenet", 0));
  EXPECT_NE(canary_of("lenet", 0), canary_of("lenet", 1));
  EXPECT_GT(canary_of("lenet", 0).size(), 10u);  // op by op
}

// The hashes that other CPUs gave stand in tests/golden/canary.json. A CPU that differs is news,
// not a failure: bits are promised on one kind of machine.
TEST(Canary, IsComparedWithOtherCpus) {
  const auto path = source_folder() + "/tests/golden/canary.json";
  const auto recorded = nlohmann::json::parse(read_file(path).value());
  const auto canary = canary_of("seed-cnn", 0);
  const auto& ops = recorded.at("cpu-avx2").at("ops");
  int differing = 0;
  for (size_t i = 0; i < canary.size(); ++i) {
    const std::string hash = hex64(static_cast<uint64_t>(canary[i].hash));
    std::printf("{\"op\": \"%s\", \"hash\": \"%s\"}\n", canary[i].op.c_str(), hash.c_str());
    const bool known = i < ops.size() && ops[i].at("op") == canary[i].op;
    if (known && ops[i].at("hash") == hash) continue;
    ++differing;
    std::printf("  differs from the recorded %s\n", known ? ops[i].at("hash").dump().c_str() : "-");
  }
  std::printf("%d of %zu ops differ on %s from what was seen on %s\n", differing, canary.size(),
              cpu_model_name().c_str(), recorded.at("cpu-avx2").at("seen_on").dump().c_str());
  RecordProperty("differing_ops", differing);
  EXPECT_GT(canary.size(), 10u);
}

}  // namespace
}  // namespace lockstep
