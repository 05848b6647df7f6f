// Sums and products over flat memory on an emulated GPU: the CPU's bits.
#include <gtest/gtest.h>

#include <array>

#include "host/cpu/cpu_device.h"
#include "tests/cpu/cpu_test_support.h"
#include "tests/emulated_cuda/runtime.h"
#include "tests/emulated_cuda/toy.h"
#include "tests/support/flat_cases.h"

namespace lockstep {
namespace {

using cpu_test::Floats;
using cpu_test::random_floats;

class EmulatedFlat : public testing::TestWithParam<uint64_t> {
 protected:
  float* upload(const Floats& values) {
    auto& buffer = buffers_.emplace_back(allocate_floats(*gpu_, std::ssize(values)));
    lockstep::upload(*gpu_, values, buffer->data());
    return buffer->data();
  }

  emulated::Machine machine_{{.seed = GetParam()}};
  std::unique_ptr<Device> gpu_ = make_cuda_device(0, "cuda-fp32").value();
  std::unique_ptr<Device> cpu_ = make_cpu_device("cpu-avx2").value();
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

TEST_P(EmulatedFlat, Squares) {
  for (const int64_t count : flat_cases::kSquares) {
    const Floats x = random_floats(1, count);
    const auto blocks = squares_blocks(count);
    std::vector<double> expected(static_cast<size_t>(blocks)), found(expected.size());
    ASSERT_TRUE(
        cpu_->squares(flat_cases::itself(), std::array{x.data()}, count, expected.data()).ok());
    float* const sums = upload(Floats(2 * expected.size()));
    const float* const on_gpu = upload(x);
    ASSERT_TRUE(gpu_->squares(flat_cases::itself(), std::array{on_gpu}, count,
                              reinterpret_cast<double*>(sums))
                    .ok());
    ASSERT_TRUE(gpu_->copy_to_host(sums, 2 * blocks, reinterpret_cast<float*>(found.data())).ok());
    EXPECT_EQ(found, expected) << count;
  }
}

TEST_P(EmulatedFlat, SumsAlongAnAxis) {
  for (const AxisSum& sum : flat_cases::axis_sums()) {
    const Floats x = random_floats(2, sum.outputs() * sum.size);
    Floats expected(static_cast<size_t>(sum.outputs()));
    ASSERT_TRUE(cpu_->sum_axis(x.data(), sum, 0, sum.outputs(), expected.data()).ok());
    float* const out = upload(expected);
    ASSERT_TRUE(gpu_->sum_axis(upload(x), sum, 0, sum.outputs(), out).ok());
    EXPECT_EQ(fetch(*gpu_, out, sum.outputs()), expected) << sum.size << " x " << sum.inner;
  }
}

TEST_P(EmulatedFlat, Products) {
  for (const MatmulOp& op : flat_cases::products()) {
    const Floats x = random_floats(3, flat_cases::x_size(op));
    const Floats z = random_floats(4, flat_cases::z_size(op));
    Floats expected(static_cast<size_t>(flat_cases::out_size(op)));
    float* const out = upload(expected);
    ASSERT_TRUE(cpu_->multiply(op, x.data(), z.data(), expected.data()).ok());
    ASSERT_TRUE(gpu_->multiply(op, upload(x), upload(z), out).ok());
    EXPECT_EQ(fetch(*gpu_, out, flat_cases::out_size(op)), expected) << op.rows << " rows";
  }
}

INSTANTIATE_TEST_SUITE_P(seeds, EmulatedFlat, testing::Values(1, 2, 3));

}  // namespace
}  // namespace lockstep
