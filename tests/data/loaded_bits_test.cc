// The bytes of the batches that IDX files and the generated digits give, as they were before any
// other kind of data could be read: weights trained since then stay what they are.
#include <gtest/gtest.h>

#include "host/core/digest.h"
#include "host/data/batch_loader.h"
#include "tests/data/test_files.h"

namespace lockstep {
namespace {

template <class Values>
uint64_t hash_of(const Values& values) {
  return xxh3(values.data(), values.size() * sizeof(values[0]));
}

// Of all that the first three batches of two epochs hold, over two devices.
std::string batches_hash(const Dataset& dataset) {
  BatchLoader loader(dataset, {{0, dataset.rows() - 3}, 32, 8, 5, true});
  std::vector<uint64_t> hashes;
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    for (int64_t batch = 0; batch < 3; ++batch) {
      for (const HostBatch& part : loader.take({epoch, batch, {{0, 3}, {3, 8}}})) {
        hashes.push_back(hash_of(part.inputs));
        hashes.push_back(hash_of(part.labels));
        hashes.push_back(hash_of(part.positions));
        hashes.push_back(hash_of(part.samples));
      }
    }
  }
  return hex64(hash_of(hashes));
}

TEST(LoadedBits, OfTheDigits) {
  const auto data = load_dataset("digits:200", Split::train);
  ASSERT_TRUE(data.ok());
  EXPECT_EQ("1321df6d2666f36a", batches_hash(*data));
  EXPECT_EQ("9910058b734448b127629af6cedf707a975664695ac13301a2e81cfec0935e13", data->digest);
}

TEST(LoadedBits, OfIdxFiles) {
  const TestFolder folder;
  folder.write("train-images-idx3-ubyte", idx_images(120, 9, 7));
  folder.write("train-labels-idx1-ubyte", idx_labels(120, 6));
  const auto data = load_dataset(folder.path(), Split::train);
  ASSERT_TRUE(data.ok()) << data.error().message;
  EXPECT_EQ("67f5aa6cefa22a16", batches_hash(*data));
  EXPECT_EQ("63e263478ea9fb0265111b6e7ad195cc2f6f627b239568fae5eab1ed0fcdc844", data->digest);
}

}  // namespace
}  // namespace lockstep
