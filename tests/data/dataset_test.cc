// Folders of IDX files as data sets, their digests, and the validation cut.
#include "host/data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

#include "host/core/digest.h"
#include "host/core/files.h"
#include "tests/data/test_files.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

constexpr char kTrainImages[] = "train-images-idx3-ubyte";
constexpr char kTrainLabels[] = "train-labels-idx1-ubyte";
constexpr char kTestImages[] = "t10k-images-idx3-ubyte";
constexpr char kTestLabels[] = "t10k-labels-idx1-ubyte";

std::string message_of(const std::string& spec, Split split) {
  const auto result = load_dataset(spec, split);
  return result.ok() ? "no error" : result.error().message;
}

std::string mnist_folder() { return LOCKSTEP_SOURCE_DIR "/../shared/data/mnist"; }

TEST(DataSet, LoadsAFolder) {
  const TestFolder folder;
  folder.write(kTrainImages, idx_images(6, 4, 5));
  folder.write(kTrainLabels, idx_labels(6, 3));
  const auto data = load_dataset(folder.path(), Split::train);
  ASSERT_TRUE(data.ok()) << data.error().message;
  EXPECT_EQ(folder.path(), data->name);
  EXPECT_EQ(6, data->rows());
  EXPECT_EQ((Shape{4, 5, 1}), data->row_shape);
  EXPECT_EQ(3, data->classes);
  const std::string pixels = some_bytes(6 * 4 * 5);
  EXPECT_EQ(std::vector<uint8_t>(pixels.begin(), pixels.end()), bytes_of(data->inputs[0]));
  EXPECT_EQ((std::vector<uint8_t>{0, 1, 2, 0, 1, 2}), bytes_of(data->targets[0]));
}

TEST(DataSet, DigestIsTheHashOfTheManifest) {
  const TestFolder folder;
  const std::string images = idx_images(6, 4, 5);
  const std::string labels = idx_labels(6, 3);
  folder.write(kTrainImages, images);
  folder.write(kTrainLabels, labels);
  const auto data = load_dataset(folder.path(), Split::train);
  ASSERT_TRUE(data.ok()) << data.error().message;
  EXPECT_EQ(sha256_hex("lockstep data 1\ntrain-images 6 " + sha256_hex(images) +
                       "\ntrain-labels 6 " + sha256_hex(labels) + "\n"),
            data->digest);
}

TEST(DataSet, DigestIsTheSameForPlainAndGzipAndEitherName) {
  const std::string images = idx_images(6, 4, 5);
  const std::string labels = idx_labels(6, 3);
  const TestFolder plain;
  plain.write(kTrainImages, images);
  plain.write(kTrainLabels, labels);
  const TestFolder zipped;
  zipped.write("train-images-idx3-ubyte.gz", gzip(images));
  zipped.write("train-labels.idx1-ubyte.gz", gzip(labels));
  const TestFolder other;
  other.write("train-images.idx3-ubyte", idx_header({6, 4, 5}) + some_bytes(6 * 4 * 5, 2));
  other.write("train-labels.idx1-ubyte", labels);
  const auto a = load_dataset(plain.path(), Split::train);
  const auto b = load_dataset(zipped.path(), Split::train);
  const auto c = load_dataset(other.path(), Split::train);
  ASSERT_TRUE(a.ok()) << a.error().message;
  ASSERT_TRUE(b.ok()) << b.error().message;
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_EQ(a->digest, b->digest);
  EXPECT_EQ(bytes_of(a->inputs[0]), bytes_of(b->inputs[0]));
  EXPECT_NE(a->digest, c->digest);
}

TEST(DataSet, ImagesWithChannels) {
  const TestFolder folder;
  folder.write("train-images-idx4-ubyte", idx_header({2, 3, 2, 3}) + some_bytes(36));
  folder.write(kTrainLabels, idx_labels(2, 1));
  const auto data = load_dataset(folder.path(), Split::train);
  ASSERT_TRUE(data.ok()) << data.error().message;
  EXPECT_EQ((Shape{3, 2, 3}), data->row_shape);
  EXPECT_EQ(2, data->classes);  // never fewer, though the labels are all 0
}

TEST(DataSet, TrainingLabelsDecideTheClassesOfTheTestSplit) {
  const TestFolder folder;
  folder.write(kTestImages, idx_images(6, 4, 5));
  folder.write(kTestLabels, idx_labels(6, 3));
  auto data = load_dataset(folder.path(), Split::test);
  ASSERT_TRUE(data.ok()) << data.error().message;
  EXPECT_EQ(3, data->classes);
  folder.write(kTrainLabels, idx_labels(20, 7));
  data = load_dataset(folder.path(), Split::test);
  ASSERT_TRUE(data.ok()) << data.error().message;
  EXPECT_EQ(7, data->classes);
}

TEST(DataSet, LabelBeyondTheClasses) {
  const TestFolder folder;
  folder.write(kTrainLabels, idx_labels(20, 4));
  folder.write(kTestImages, idx_images(12, 4, 5));
  const std::string labels = folder.write(kTestLabels, idx_labels(12, 8));
  EXPECT_THAT(message_of(folder.path(), Split::test),
              HasSubstr("row 4 of '" + labels +
                        "' has the label 4, and the training labels beside "
                        "it have the 4 classes 0 to 3; check that the files belong together"));
}

TEST(DataSet, CountsThatDiffer) {
  const TestFolder folder;
  const std::string images = folder.write(kTrainImages, idx_images(6, 4, 5));
  const std::string labels = folder.write(kTrainLabels, idx_labels(7, 3));
  EXPECT_EQ("'" + images + "' holds 6 images and '" + labels +
                "' 7 labels; check that the files belong together",
            message_of(folder.path(), Split::train));
}

TEST(DataSet, MissingFiles) {
  const TestFolder folder;
  EXPECT_THAT(message_of(folder.path(), Split::train),
              HasSubstr("no training images in '" + folder.path() +
                        "': looked for train-images-idx3-ubyte, train-images.idx3-ubyte, "
                        "train-images-idx4-ubyte, train-images.idx4-ubyte, each also with .gz; put "
                        "the file there or name another folder"));
  folder.write(kTestImages, idx_images(6, 4, 5));
  EXPECT_THAT(message_of(folder.path(), Split::test),
              HasSubstr("no test labels in '" + folder.path() +
                        "': looked for t10k-labels-idx1-ubyte, t10k-labels.idx1-ubyte"));
}

TEST(DataSet, UnknownName) {
  const auto result = load_dataset("digts", Split::train);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(ErrorKind::usage, result.error().kind);
  EXPECT_EQ(
      "no data set 'digts': it is neither a file nor a folder nor the generated data set digits or "
      "digits:ROWS; did you mean 'digits'?",
      result.error().message);
  EXPECT_THAT(message_of("digts:100", Split::train), HasSubstr("did you mean 'digits'?"));
  EXPECT_THAT(message_of("/no/such/folder", Split::train),
              HasSubstr("no data set '/no/such/folder': it is neither a file nor a folder nor"));
  EXPECT_THAT(message_of("", Split::train), HasSubstr("no data set ''"));
}

TEST(DataSet, FileInsteadOfAFolder) {
  const TestFolder folder;
  const std::string path = folder.write(kTrainImages, idx_images(6, 4, 5));
  EXPECT_THAT(message_of(path, Split::train), HasSubstr("is a file; name the folder"));
}

TEST(DataSet, BadFilesAreNamed) {
  const TestFolder folder;
  const std::string images = folder.write(kTrainImages, "");
  folder.write(kTrainLabels, idx_labels(6, 3));
  EXPECT_THAT(message_of(folder.path(), Split::train), HasSubstr("'" + images + "' is empty"));
}

TEST(DataSet, Mnist) {
  if (!folder_exists(mnist_folder())) GTEST_SKIP() << "MNIST is not at " << mnist_folder();
  const auto begin = std::chrono::steady_clock::now();
  const auto training = load_dataset(mnist_folder(), Split::train);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  RecordProperty("seconds_to_load", std::to_string(seconds.count()));
  const auto test = load_dataset(mnist_folder(), Split::test);
  ASSERT_TRUE(training.ok()) << training.error().message;
  ASSERT_TRUE(test.ok()) << test.error().message;
  EXPECT_EQ(60000, training->rows());
  EXPECT_EQ(10000, test->rows());
  EXPECT_EQ((Shape{28, 28, 1}), training->row_shape);
  EXPECT_EQ(10, training->classes);
  EXPECT_EQ(10, test->classes);
  EXPECT_NE(training->digest, test->digest);
  // The first training labels, as every tutorial prints them.
  EXPECT_EQ((std::vector<uint8_t>{5, 0, 4, 1, 9, 2, 1, 3, 1, 4}),
            bytes_of({.values = training->targets[0].values.part(0, 10)}));
}

TEST(ValidationCut, IsAtKerasRow) {
  const auto cut_at = [](int64_t rows, double split) {
    const ValidationCut cut = cut_validation(rows, split);
    EXPECT_EQ(0, cut.train.begin);
    EXPECT_EQ(cut.train.end, cut.validation.begin);
    EXPECT_EQ(rows, cut.validation.end);
    return cut.train.end;
  };
  EXPECT_EQ(1000, cut_at(1000, 0.0));
  EXPECT_EQ(900, cut_at(1000, 0.1));
  EXPECT_EQ(48000, cut_at(60000, 0.2));
  // What Python's int(rows * (1 - split)) gives: 10 * (1 - 0.9) is just below 1.
  EXPECT_EQ(0, cut_at(10, 0.9));
  EXPECT_EQ(6, cut_at(10, 0.35));
  EXPECT_EQ(2, cut_at(3, 0.1));
}

}  // namespace
}  // namespace lockstep
