// What it takes of memory to load weights: little beside the weights themselves.
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "host/core/process_memory.h"
#include "host/keras/save_model.h"
#include "host/keras/weights.h"
#include "models/models.h"
#include "tests/support/test_folder.h"

namespace lockstep {
namespace {

// The largest resident set since forget_peak().
int64_t peak_bytes() {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;) {
    int64_t kb = 0;
    if (word == "VmHWM:" && file >> kb) return kb * 1024;
  }
  return 0;
}

bool forget_peak() { return static_cast<bool>(std::ofstream("/proc/self/clear_refs") << 5); }

TEST(LoadMemoryTest, TheFileIsNotInMemoryBesideItsWeights) {
  const TestFolder folder;
  const auto model = mlp({192, 192, 1}, 10);
  const Graph graph = model->training_graph(std::string("sparse_categorical_crossentropy")).value();
  const auto bytes = graph.parameter_count * int64_t{sizeof(float)};
  ASSERT_GT(bytes, 30 << 20);
  std::string path;
  {
    const std::vector<float> weights(static_cast<size_t>(graph.parameter_count), 0.5f);
    TrainedModel trained;
    trained.model = model.get();
    trained.parameters = &graph.parameters;
    trained.weights = weights;
    path = folder.write("large.keras", make_keras_file(trained).value());
  }
  const int64_t before = resident_bytes();
  ASSERT_TRUE(forget_peak());
  const ModelFile file = read_model_file(path).value();
  const auto weights = read_weights(file, *model, graph.parameters).value();
  EXPECT_EQ(weights.back(), 0.5f);
  EXPECT_LT(static_cast<double>(peak_bytes() - before), 1.2 * static_cast<double>(bytes));
  EXPECT_GT(peak_bytes() - before, bytes / 2) << "nothing was measured";
}

}  // namespace
}  // namespace lockstep
