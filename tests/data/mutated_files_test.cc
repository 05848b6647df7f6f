// Small files of every kind with bytes changed, cut and put in: an error or a data set, never a
// crash, and no memory to speak of.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "host/core/rng.h"
#include "host/data/batch_loader.h"
#include "tests/data/test_files.h"

namespace lockstep {
namespace {

constexpr uint64_t kRounds = 1500;
constexpr int64_t kMaxGrowthKib = 512 << 10;  // ASan keeps 256 MiB of what was freed

int64_t peak_kib() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

class Mutations {
 public:
  explicit Mutations(uint64_t seed) : seed_(seed) {}

  std::string apply(std::string bytes) {
    const uint64_t count = 1 + next(4);
    for (uint64_t i = 0; i < count && !bytes.empty(); ++i) change(&bytes);
    return bytes;
  }

 private:
  uint64_t next(uint64_t below) { return mix64(seed_++) % below; }
  void change(std::string* bytes) {
    constexpr char kTelling[] = {'\0', '\1', '\x7f', '\x80', '\xff', '"', ',', '\n', '(', '9'};
    const size_t at = next(bytes->size());
    switch (next(5)) {
      case 0:
        (*bytes)[at] = static_cast<char>(next(256));
        break;
      case 1:
        (*bytes)[at] = kTelling[next(sizeof(kTelling))];
        break;
      case 2:
        bytes->resize(at);
        break;
      case 3:
        bytes->insert(at, 1 + next(9), kTelling[next(sizeof(kTelling))]);
        break;
      default:
        bytes->erase(at, 1 + next(9));
    }
  }
  uint64_t seed_;
};

// Reads it as nodes would, all rows of it.
bool load(const std::string& spec, const DataOptions& options = {}) {
  const auto data = load_dataset(spec, Split::train, options);
  if (!data.ok()) {
    EXPECT_FALSE(data.error().message.empty());
    return false;
  }
  LoaderOptions loader{{0, data->rows()}, data->rows(), 1, 1, true};
  loader.targets = true;
  EXPECT_EQ(data->rows(), BatchLoader(*data, loader).take({0, 0, {{0, 1}}})[0].rows);
  return true;
}

// A new file: one that is cut short and written again waits for the disk.
std::string replace(const TestFolder& folder, const std::string& name, const std::string& bytes) {
  std::filesystem::remove(folder.path() + "/" + name);
  return folder.write(name, bytes);
}

// `write` puts the bytes where they belong and returns what to load.
template <class Write>
void expect_no_crash(const std::string& name, const std::string& bytes, const DataOptions& options,
                     Write write) {
  ASSERT_TRUE(load(write(bytes), options)) << name;
  const int64_t before = peak_kib();
  int loaded = 0;
  for (uint64_t round = 0; round < kRounds; ++round) {
    SCOPED_TRACE(testing::Message() << name << ", round " << round);
    loaded += load(write(Mutations(round << 8).apply(bytes)), options);
  }
  EXPECT_LT(loaded, static_cast<int>(kRounds)) << name;
  EXPECT_LT(peak_kib() - before, kMaxGrowthKib) << name;
}

TEST(MutatedFiles, Npy) {
  for (const char* name : {"f4.npy", "version_3.npy", "big_fortran_f8.npy", "b1.npy"}) {
    const TestFolder folder;
    folder.write("y.npy", array_file("u1.npy"));
    expect_no_crash(name, array_file(name), {}, [&](const std::string& bytes) {
      replace(folder, "x.npy", bytes);
      return folder.path();
    });
  }
}

TEST(MutatedFiles, Npz) {
  const TestFolder folder;
  const auto write = [&](const std::string& bytes) { return replace(folder, "x.npz", bytes); };
  for (const char* name : {"stored.npz", "deflated.npz"}) {
    expect_no_crash(name, array_file(name), {}, write);
  }
  expect_no_crash("named.npz", array_file("named.npz"), {.targets = {"price", "rating"}}, write);
}

TEST(MutatedFiles, Csv) {
  const TestFolder folder;
  const auto write = [&](const std::string& bytes) { return replace(folder, "x.csv", bytes); };
  const std::string text =
      "a,\"b, \"\"c\"\"\",sample_weight,y\r\n1,2.5,1,0\n-3e8,\"7\",0.5,1\n,NA,2,0\n";
  expect_no_crash("csv", text, {.missing = 0.5}, write);
  expect_no_crash("csv.gz", gzip(text), {.missing = 0.5}, write);
}

TEST(MutatedFiles, Idx) {
  const TestFolder folder;
  folder.write("train-labels-idx1-ubyte", idx_labels(6, 3));
  expect_no_crash("idx", idx_images(6, 4, 5), {}, [&](const std::string& bytes) {
    replace(folder, "train-images-idx3-ubyte", bytes);
    return folder.path();
  });
}

}  // namespace
}  // namespace lockstep
