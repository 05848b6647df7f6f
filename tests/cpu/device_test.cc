// Memory, layout, flat arithmetic and the facts that a CPU device reports.
#include <immintrin.h>

#include <cmath>

#include "tests/cpu/cpu_test_support.h"

namespace lockstep::cpu_test {
namespace {

std::vector<std::string> supported() {
  std::vector<std::string> result;
  for (const std::string name : {"cpu-avx2", "cpu-avx512"}) {
    if (cpu_supports(name)) result.push_back(name);
  }
  return result;
}

TEST(CpuDevice, Facts) {
  EXPECT_FALSE(cpu_model_name().empty());
  EXPECT_FALSE(cpu_supports("cpu-sse"));
  EXPECT_FALSE(make_cpu_device("cuda-fp32").ok());
  for (const std::string& name : supported()) {
    const std::unique_ptr<Device> device = make_device(name);
    EXPECT_EQ(device->numerics(), name);
    EXPECT_TRUE(device->shares_host_memory());
    EXPECT_EQ(device->value_bytes(0, 5), 0);
    EXPECT_EQ(device->value_bytes(1, 5), device->value_bytes(8, 5));
    EXPECT_GT(measure_fma_peak(name, 1), 0.1);
  }
}

TEST(CpuDevice, AttachThreadSetsTheRoundingMode) {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040 | 0x6000);  // flush denormals, round to zero
  make_device();
  EXPECT_EQ(_mm_getcsr() & 0xffc0u, 0x1f80u);
  volatile float tiny = 1e-38f;
  EXPECT_NE(tiny / 4, 0.0f);
  _mm_setcsr(before);
}

TEST(CpuDevice, InputAndDownloadAreInverse) {
  for (const std::string& name : supported()) {
    const std::unique_ptr<Device> device = make_device(name);
    for (const int rows : {1, 7, 8, 16, 21}) {
      for (const int64_t features : {1, 5, 8, 19}) {
        HostBatch batch{
            .rows = rows, .features = features, .inputs = random_floats(1, rows * features)};
        auto buffer = device->allocate(device->value_bytes(rows, features)).value();
        EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
        const int64_t floats = device->value_bytes(rows, features) / 4;
        for (int64_t i = 0; i < floats; ++i) buffer->data()[i] = __builtin_nanf("");
        OpDesc desc{.name = "input", .attributes = InputOp{features}, .outputs = {0}};
        auto op = device->prepare(desc, {.first = 0, .rows = {rows}}).value();
        float* const values[] = {buffer->data()};
        op->run({.batch = &batch}, values);
        Floats back(batch.inputs.size());
        ASSERT_TRUE(device->download(buffer->data(), rows, features, back.data()).ok());
        EXPECT_TRUE(same_bits(back, batch.inputs));
        for (int64_t i = 0; i < floats; ++i) ASSERT_TRUE(std::isfinite(buffer->data()[i]));
      }
    }
  }
}

TEST(CpuDevice, AddOfAnyLengthAndAlignment) {
  for (const std::string& name : supported()) {
    const std::unique_ptr<Device> device = make_device(name);
    for (const int64_t count : {0, 1, 15, 16, 33, 1000}) {
      const Floats a = random_floats(1, count + 1), b = random_floats(2, count + 1);
      Floats out = a;  // out may be a
      device->add(out.data() + 1, b.data() + 1, out.data() + 1, count);
      for (int64_t i = 0; i < count + 1; ++i) {
        const size_t at = static_cast<size_t>(i);
        ASSERT_EQ(out[at], i == 0 ? a[at] : a[at] + b[at]);
      }
    }
  }
}

TEST(CpuDevice, AdamFollowsThePins) {
  for (const std::string& name : supported()) {
    const std::unique_ptr<Device> device = make_device(name);
    const AdamUpdate adam{0.1f, 0.001f, 0.0123f, 1e-7f};
    for (const int64_t count : {1, 16, 37}) {
      Floats w = random_floats(1, count), m = random_floats(2, count), v = random_floats(3, count);
      for (float& x : v) x = x * x;
      const Floats g = random_floats(4, count);
      Floats w1 = w, m1 = m, v1 = v;
      for (size_t i = 0; i < w.size(); ++i) {
        m1[i] = std::fma(g[i] - m1[i], adam.one_minus_beta_1, m1[i]);
        v1[i] = std::fma(g[i] * g[i] - v1[i], adam.one_minus_beta_2, v1[i]);
        w1[i] = w1[i] - (m1[i] * adam.alpha) / (std::sqrt(v1[i]) + adam.epsilon);
      }
      float* const slots[] = {m.data(), v.data()};
      ASSERT_TRUE(device->update(adam, g.data(), w.data(), slots, count, nullptr).ok());
      EXPECT_EQ(first_difference(w, w1), "none");
      EXPECT_EQ(first_difference(m, m1), "none");
      EXPECT_EQ(first_difference(v, v1), "none");
    }
  }
}

TEST(CpuDevice, SgdFollowsThePins) {
  for (const std::string& name : supported()) {
    const std::unique_ptr<Device> device = make_device(name);
    for (const SgdUpdate& sgd :
         {SgdUpdate{0.1f, 0, false}, SgdUpdate{0.1f, 0.9f, false}, SgdUpdate{0.1f, 0.9f, true}}) {
      const int64_t count = 37;
      Floats w = random_floats(1, count), m = random_floats(2, count);
      const Floats g = random_floats(4, count);
      Floats w1 = w, m1 = m;
      for (size_t i = 0; i < w.size(); ++i) {
        const float step = g[i] * sgd.learning_rate;
        if (sgd.momentum == 0) {
          w1[i] = w1[i] - step;
          continue;
        }
        m1[i] = sgd.momentum * m1[i] - step;
        w1[i] = w1[i] + (sgd.nesterov ? sgd.momentum * m1[i] - step : m1[i]);
      }
      float* const slots[] = {m.data()};
      const std::span<float* const> used =
          sgd.momentum == 0 ? std::span<float* const>{} : std::span<float* const>{slots};
      ASSERT_TRUE(device->update(sgd, g.data(), w.data(), used, count, nullptr).ok());
      EXPECT_EQ(first_difference(w, w1), "none");
      EXPECT_EQ(first_difference(m, m1), "none");
    }
  }
}

}  // namespace
}  // namespace lockstep::cpu_test
