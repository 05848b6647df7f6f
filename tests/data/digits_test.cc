// The generated digits: the same every time, balanced, and too hard for a linear model.
#include "host/data/digits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <set>
#include <span>

#include "host/core/digest.h"
#include "host/data/sample_order.h"
#include "tests/data/test_files.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

constexpr size_t kPixels = 28 * 28;
constexpr size_t kClasses = 10;

std::span<const uint8_t> all_pixels(const Dataset& dataset) {
  return {dataset.inputs[0].values.data(), dataset.inputs[0].values.size()};
}

std::span<const uint8_t> all_labels(const Dataset& dataset) {
  return {dataset.targets[0].values.data(), dataset.targets[0].values.size()};
}

std::vector<uint8_t> pixels_of(const Dataset& dataset, size_t row) {
  const auto pixels = all_pixels(dataset).subspan(row * kPixels, kPixels);
  return {pixels.begin(), pixels.end()};
}

uint64_t hash_of(const Dataset& dataset, size_t row) {
  return xxh3(&all_pixels(dataset)[row * kPixels], kPixels);
}

TEST(Digits, DefaultSize) {
  const auto begin = std::chrono::steady_clock::now();
  const auto training = load_dataset("digits", Split::train);
  const auto test = load_dataset("digits", Split::test);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  RecordProperty("seconds_to_make", std::to_string(seconds.count()));
  ASSERT_TRUE(training.ok() && test.ok());
  EXPECT_EQ(12000, training->rows());
  EXPECT_EQ(2000, test->rows());
  EXPECT_EQ((Shape{28, 28, 1}), training->row_shape);
  EXPECT_EQ(10, training->classes);
  EXPECT_EQ(10, test->classes);
  EXPECT_EQ(12000 * kPixels, all_pixels(*training).size());
  EXPECT_NE(training->digest, test->digest);
  // Not asserted: reported, so that machines can be compared.
  RecordProperty("training_digest", training->digest);
  RecordProperty("test_digest", test->digest);
}

TEST(Digits, ChosenSize) {
  const auto training = load_dataset("digits:61", Split::train);
  const auto test = load_dataset("digits:61", Split::test);
  ASSERT_TRUE(training.ok() && test.ok());
  EXPECT_EQ("digits:61", training->name);
  EXPECT_EQ(61, training->rows());
  EXPECT_EQ(10, test->rows());
  const auto least = load_dataset("digits:1", Split::test);
  ASSERT_TRUE(least.ok());
  EXPECT_EQ(1, least->rows());
}

// What the name means must not depend on the folder that a node was started in.
TEST(Digits, AFolderOfThatNameDoesNotHideThem) {
  const TestFolder folder;
  std::filesystem::create_directory(folder.path() + "/digits");
  const auto home = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  const auto generated = load_dataset("digits:20", Split::train);
  const auto beside = load_dataset("./digits", Split::train);
  std::filesystem::current_path(home);
  EXPECT_TRUE(generated.ok());
  ASSERT_FALSE(beside.ok());
  EXPECT_THAT(beside.error().message, HasSubstr("no training images in './digits'"));
}

TEST(Digits, BadSizes) {
  for (const char* spec : {"digits:", "digits:0", "digits:-5", "digits:1000001", "digits:12x",
                           "digits: 12", "digits:99999999999999999999", "digits:1.5"}) {
    const auto result = load_dataset(spec, Split::train);
    ASSERT_FALSE(result.ok()) << spec;
    EXPECT_EQ(ErrorKind::usage, result.error().kind);
    EXPECT_THAT(result.error().message,
                HasSubstr(std::string("data set '") + spec +
                          "': after 'digits:' stands the number "
                          "of training rows, 1 to 1000000, as in 'digits:12000'"));
  }
}

TEST(Digits, SameEveryTime) {
  const Dataset first = make_digits(500, Split::train);
  const Dataset second = make_digits(500, Split::train);
  EXPECT_EQ(bytes_of(first.inputs[0]), bytes_of(second.inputs[0]));
  EXPECT_EQ(bytes_of(first.targets[0]), bytes_of(second.targets[0]));
  EXPECT_EQ(first.digest, second.digest);
}

TEST(Digits, ARowDependsOnItsNumberAlone) {
  const Dataset few = make_digits(50, Split::train);
  const Dataset many = make_digits(500, Split::train);
  for (size_t row = 0; row < 50; ++row) EXPECT_EQ(pixels_of(few, row), pixels_of(many, row));
  EXPECT_NE(few.digest, many.digest);
}

TEST(Digits, RowsDiffer) {
  const Dataset training = make_digits(1200, Split::train);
  const Dataset test = make_digits(1200, Split::test);
  std::set<uint64_t> hashes;
  for (size_t row = 0; row < 1200; ++row) hashes.insert(hash_of(training, row));
  for (size_t row = 0; row < 200; ++row) hashes.insert(hash_of(test, row));
  EXPECT_EQ(1400u, hashes.size());
}

TEST(Digits, Balanced) {
  for (const Split split : {Split::train, Split::test}) {
    const Dataset dataset = make_digits(6012, split);
    std::array<int64_t, kClasses> counts{};
    for (const uint8_t label : all_labels(dataset)) ++counts.at(label);
    const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
    EXPECT_LE(*most - *least, 1);
  }
}

// Ink and paper are told apart in every picture, and the ink does not fill it.
TEST(Digits, HaveContrast) {
  const Dataset dataset = make_digits(300, Split::train);
  for (size_t row = 0; row < 300; ++row) {
    std::vector<uint8_t> pixels = pixels_of(dataset, row);
    std::sort(pixels.begin(), pixels.end());
    EXPECT_GT(pixels[kPixels * 99 / 100] - pixels[kPixels / 100], 100) << "row " << row;
    const int64_t middle = (int64_t{pixels.front()} + pixels.back()) / 2;
    const auto bright =
        std::count_if(pixels.begin(), pixels.end(), [&](uint8_t pixel) { return pixel > middle; });
    const auto fewer = std::min<int64_t>(bright, kPixels - bright);
    EXPECT_GT(fewer, 15) << "row " << row;
    EXPECT_LT(fewer, 350) << "row " << row;
  }
}

// Softmax regression by stochastic gradient descent.
class LinearModel {
 public:
  void train(const Dataset& dataset, int epochs) {
    for (int epoch = 0; epoch < epochs; ++epoch) {
      const SampleOrder order(dataset.rows(), 1, epoch, true);
      const float rate = 0.02f / (1.0f + static_cast<float>(epoch));
      for (int64_t i = 0; i < dataset.rows(); ++i) {
        step(dataset, static_cast<size_t>(order.row_at(i)), rate);
      }
    }
  }

  double accuracy(const Dataset& dataset) {
    int64_t correct = 0;
    for (size_t row = 0; row < all_labels(dataset).size(); ++row) {
      const auto scores = scores_of(dataset, row);
      const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
      correct += best == all_labels(dataset)[row];
    }
    return static_cast<double>(correct) / static_cast<double>(dataset.rows());
  }

 private:
  std::array<float, kClasses> scores_of(const Dataset& dataset, size_t row) {
    std::array<float, kClasses> scores = bias_;
    const uint8_t* pixels = &all_pixels(dataset)[row * kPixels];
    for (size_t i = 0; i < kPixels; ++i) {
      const float pixel = static_cast<float>(pixels[i]) / 255.0f;
      for (size_t c = 0; c < kClasses; ++c) scores[c] += weights_[i * kClasses + c] * pixel;
    }
    return scores;
  }

  void step(const Dataset& dataset, size_t row, float rate) {
    std::array<float, kClasses> change = scores_of(dataset, row);
    const float largest = *std::max_element(change.begin(), change.end());
    float sum = 0;
    for (float& value : change) sum += value = std::exp(value - largest);
    for (float& value : change) value *= -rate / sum;
    change[all_labels(dataset)[row]] += rate;
    const uint8_t* pixels = &all_pixels(dataset)[row * kPixels];
    for (size_t i = 0; i < kPixels; ++i) {
      const float pixel = static_cast<float>(pixels[i]) / 255.0f;
      for (size_t c = 0; c < kClasses; ++c) weights_[i * kClasses + c] += change[c] * pixel;
    }
    for (size_t c = 0; c < kClasses; ++c) bias_[c] += change[c];
  }

  std::vector<float> weights_ = std::vector<float>(kPixels * kClasses, 0.0f);
  std::array<float, kClasses> bias_{};
};

#ifdef LOCKSTEP_SANITIZED
constexpr int64_t kLinearRows = 1500;  // the build is slow
#else
constexpr int64_t kLinearRows = 6000;
#endif

TEST(Digits, ALinearModelIsNotEnough) {
  LinearModel model;
  model.train(make_digits(kLinearRows, Split::train), 6);
  const double accuracy = model.accuracy(make_digits(6000, Split::test));
  RecordProperty("linear_accuracy", std::to_string(accuracy));
  EXPECT_LT(accuracy, 0.8);
  EXPECT_GT(accuracy, 0.3);  // it learns what a linear model can
}

}  // namespace
}  // namespace lockstep
