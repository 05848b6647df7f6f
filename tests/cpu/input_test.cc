// Columns of a host batch.
#include "tests/cpu/cpu_test_support.h"

namespace lockstep::cpu_test {
namespace {

TEST(Input, CopiesColumnsOfEachPart) {
  const int rows = 19;
  HostBatch batch{.rows = rows, .features = 30, .target_features = 5};
  batch.inputs = random_floats(1, rows * batch.features);
  batch.targets = random_floats(2, rows * batch.target_features);
  const Floats weights = random_floats(3, rows), ones(rows, 1.0f);
  const InputOp ops[] = {{30, 0},
                         {11, 7},
                         {1, 29},
                         {5, 0, BatchPart::targets},
                         {2, 3, BatchPart::targets},
                         {1, 0, BatchPart::weights}};
  for (const std::string numerics : {"cpu-avx2", "cpu-avx512"}) {
    if (!cpu_supports(numerics)) continue;
    const std::unique_ptr<Device> device = make_device(numerics);
    for (const InputOp& op : ops) {
      for (const bool weighted : {false, true}) {
        batch.weights = weighted ? weights : Floats();
        const Floats source = op.part == BatchPart::targets   ? Floats(batch.targets)
                              : op.part == BatchPart::weights ? (weighted ? weights : ones)
                                                              : Floats(batch.inputs);
        const size_t stride = source.size() / rows;
        const auto buffer = device->allocate(device->value_bytes(rows, op.features)).value();
        float* const values[] = {buffer->data()};
        const OpDesc desc{.name = "input", .attributes = op, .outputs = {0}};
        const PartitionGroup group{.first = 0, .rows = {rows}};
        device->prepare(desc, group).value()->run({.batch = &batch}, values);
        Floats x(static_cast<size_t>(rows * op.features));
        ASSERT_TRUE(device->download(values[0], rows, op.features, x.data()).ok());
        for (size_t i = 0; i < x.size(); ++i) {
          const size_t features = static_cast<size_t>(op.features);
          const size_t column = static_cast<size_t>(op.offset) + i % features;
          ASSERT_EQ(x[i], source[i / features * stride + column]) << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::cpu_test
