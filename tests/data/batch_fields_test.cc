// Batches of data that is not images with a class each.
#include <gtest/gtest.h>

#include <numeric>

#include "host/data/batch_loader.h"

namespace lockstep {
namespace {

template <class T>
Field field_of(const std::string& name, Shape row_shape, ElementType type,
               const std::vector<T>& values) {
  Field field{name, std::move(row_shape), 0, type};
  const auto* begin = reinterpret_cast<const uint8_t*>(values.data());
  field.values = SharedBytes(std::vector<uint8_t>(begin, begin + values.size() * sizeof(T)));
  return field;
}

// Row r has the inputs (r, -r / 2, r + 100, r + 200) and the targets (r % 3, r).
Dataset mixed_rows(int rows) {
  std::vector<int16_t> first;
  std::vector<double> second;
  std::vector<uint8_t> third;
  std::vector<int64_t> classes;
  std::vector<float> numbers;
  for (int r = 0; r < rows; ++r) {
    first.push_back(static_cast<int16_t>(r));
    second.push_back(-r / 2.0);
    third.push_back(static_cast<uint8_t>(r + 100));
    third.push_back(static_cast<uint8_t>(r + 200));
    classes.push_back(r % 3);
    numbers.push_back(static_cast<float>(r));
  }
  Dataset parts;
  parts.inputs = {field_of("a", {}, ElementType::int16, first),
                  field_of("b", {1}, ElementType::float64, second),
                  field_of("c", {2}, ElementType::uint8, third)};
  parts.targets = {field_of("kind", {}, ElementType::int64, classes),
                   field_of("size", {}, ElementType::float32, numbers)};
  return assemble_dataset(std::move(parts)).value();
}

HostBatch all_rows(const Dataset& data, LoaderOptions options) {
  options.rows = {0, data.rows()};
  options.batch_size = data.rows();
  options.shuffle = false;
  return BatchLoader(data, options).take({0, 0, {{0, 1}}})[0];
}

TEST(BatchFields, InputsAndTargetsLieSideBySide) {
  const Dataset data = mixed_rows(40);
  LoaderOptions options{{3, 40}, 16, 4, 7, true};
  options.targets = true;
  BatchLoader loader(data, options);
  for (const HostBatch& part : loader.take({1, 1, {{0, 2}, {2, 4}}})) {
    ASSERT_EQ(8, part.rows);
    EXPECT_EQ(4, part.features);
    EXPECT_EQ(2, part.target_features);
    EXPECT_TRUE(part.labels.empty());
    EXPECT_TRUE(part.weights.empty());
    for (size_t i = 0; i < 8; ++i) {
      const auto row = static_cast<float>(part.samples[i] + 3);
      EXPECT_EQ((std::vector<float>{row, -row / 2, row + 100, row + 200}),
                std::vector<float>(part.inputs.begin() + static_cast<long>(4 * i),
                                   part.inputs.begin() + static_cast<long>(4 * i + 4)));
      EXPECT_EQ(static_cast<float>((part.samples[i] + 3) % 3), part.targets[2 * i]);
      EXPECT_EQ(row, part.targets[2 * i + 1]);
    }
  }
}

TEST(BatchFields, ClassesAreTargetsWhereAsked) {
  Dataset data = mixed_rows(6);
  data.targets.pop_back();
  data = assemble_dataset(std::move(data)).value();
  EXPECT_EQ(3, data.classes);
  HostBatch batch = all_rows(data, {});
  EXPECT_EQ((std::vector<int32_t>{0, 1, 2, 0, 1, 2}), batch.labels);
  EXPECT_TRUE(batch.targets.empty());
  EXPECT_EQ(0, batch.target_features);
  batch = all_rows(data, {.targets = true});
  EXPECT_EQ((std::vector<int32_t>{0, 1, 2, 0, 1, 2}), batch.labels);
  EXPECT_EQ((std::vector<float>{0, 1, 2, 0, 1, 2}), batch.targets);
}

TEST(BatchFields, WeightsAreThoseOfSamplesTimesThoseOfClasses) {
  Dataset data = mixed_rows(6);
  data.targets.pop_back();
  EXPECT_TRUE(all_rows(data, {}).weights.empty());
  const std::map<int64_t, float> classes = {{0, 2.0f}, {2, 0.5f}, {9, 7.0f}};
  EXPECT_EQ((std::vector<float>{2, 1, 0.5f, 2, 1, 0.5f}),
            all_rows(data, {.class_weights = classes}).weights);
  data.weights = {
      field_of<double>("sample_weight", {}, ElementType::float64, {1, 2, 3, 4, 5, 0.1})};
  EXPECT_EQ((std::vector<float>{1, 2, 3, 4, 5, 0.1f}), all_rows(data, {}).weights);
  EXPECT_EQ((std::vector<float>{2, 2, 1.5f, 8, 5, 0.1f * 0.5f}),
            all_rows(data, {.class_weights = classes}).weights);
}

TEST(BatchFields, RowsHaveAWeightForEachPosition) {
  Dataset data = mixed_rows(2);
  data.weights = {
      field_of<float>("sample_weight", {3}, ElementType::float32, {1, 2, 3, 0, 0.5f, 1})};
  const WeightColumn plain{.entries = 3};
  EXPECT_EQ((std::vector<float>{1, 2, 3, 0, 0.5f, 1}),
            all_rows(data, {.weights = {plain}}).weights);
  const WeightColumn divided{.divisor = WeightColumn::Divisor::weights, .entries = 3};
  const HostBatch both = all_rows(data, {.weights = {{}, divided}});
  EXPECT_EQ(4, both.weight_columns);
  const float scale = 2 / 7.5f;
  EXPECT_EQ((std::vector<float>{1, scale, 2 * scale, 3 * scale, 0, 0, 0.5f * scale, scale}),
            both.weights);
  data.weights = {field_of<float>("sample_weight", {}, ElementType::float32, {2, 5})};
  EXPECT_EQ((std::vector<float>{2, 2, 2, 5, 5, 5}), all_rows(data, {.weights = {plain}}).weights);
}

TEST(BatchFields, ClassOfOneHotTargetsAndOfNumbers) {
  Dataset data = mixed_rows(4);
  data.targets = {
      field_of<float>("y", {3}, ElementType::float32, {0, 1, 0, 1, 0, 0, 0, 0, 1, 0.5f, 0.5f, 0})};
  const std::map<int64_t, float> classes = {{0, 2.0f}, {1, 3.0f}, {2, 5.0f}};
  EXPECT_EQ((std::vector<float>{3, 2, 5, 2}), all_rows(data, {.class_weights = classes}).weights);
  data.targets = {field_of<double>("y", {1}, ElementType::float64, {0.5, 1.5, 0.51, 1e300})};
  EXPECT_EQ((std::vector<float>{2, 5, 3, 1}), all_rows(data, {.class_weights = classes}).weights);
}

}  // namespace
}  // namespace lockstep
