#include "host/train/prediction_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "host/core/files.h"
#include "host/data/npy.h"
#include "host/data/zip_archive.h"
#include "tests/support/test_folder.h"

namespace lockstep {
namespace {

using testing::HasSubstr;

std::string_view packed_floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

Status go_on() { return {}; }

class PredictionFileTest : public testing::Test {
 protected:
  std::unique_ptr<PredictionFile> make(const std::string& name, const std::vector<Shape>& shapes) {
    auto made = PredictionFile::create(folder_.path() + "/" + name, {"first", "second"}, shapes, 3);
    EXPECT_TRUE(made.ok()) << made.error().message;
    return std::move(made).value();
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      names.push_back(entry.path().filename());
    }
    return names;
  }

  const TestFolder folder_;
  const std::vector<float> values_ = {0.5f, 1, 2, 3, 4, 5e-20f};
};

TEST_F(PredictionFileTest, RowsInAnyOrderAndTwice) {
  const auto file = make("p.npy", {{2}});
  const std::string_view bytes = packed_floats(values_);
  ASSERT_TRUE(file->write(0, 12, bytes.substr(12)).ok());
  ASSERT_TRUE(file->write(0, 0, bytes.substr(0, 12)).ok());
  ASSERT_TRUE(file->write(0, 8, bytes.substr(8, 8)).ok());
  EXPECT_TRUE(names().empty());
  ASSERT_TRUE(file->save(go_on).ok());
  EXPECT_EQ(names(), std::vector<std::string>{"p.npy"});
  EXPECT_EQ(read_file(folder_.path() + "/p.npy").value(), npy_header({3, 2}) + std::string(bytes));
}

TEST_F(PredictionFileTest, CsvHasALineARow) {
  const auto file = make("p.csv", {{2}});
  ASSERT_TRUE(file->write(0, 0, packed_floats(values_)).ok());
  ASSERT_TRUE(file->save(go_on).ok());
  EXPECT_EQ(read_file(folder_.path() + "/p.csv").value(), "y0,y1\n0.5,1\n2,3\n4,5e-20\n");
}

TEST_F(PredictionFileTest, NpzHasAnArrayAnOutput) {
  const auto file = make("p.npz", {{2}, {}});
  ASSERT_TRUE(file->write(1, 0, packed_floats({7, 8, 9})).ok());
  ASSERT_TRUE(file->write(0, 0, packed_floats(values_)).ok());
  ASSERT_TRUE(file->save(go_on).ok());
  const std::string path = folder_.path() + "/p.npz";
  const auto archive = ZipArchive::open(map_file(path).value(), path);
  ASSERT_TRUE(archive.ok()) << archive.error().message;
  ASSERT_EQ(archive->members().size(), 2u);
  EXPECT_EQ(archive->members()[0].name, "first.npy");
  EXPECT_EQ(archive->members()[1].name, "second.npy");
  for (const auto& [member, shape] : {std::pair<size_t, Shape>(0, {3, 2}), {1, {3}}}) {
    const auto bytes = archive->read(archive->members()[member]);
    ASSERT_TRUE(bytes.ok());
    EXPECT_EQ(read_npy(*bytes, "member").value().shape, shape);
  }
}

TEST_F(PredictionFileTest, WhatEndsItLeavesNoFile) {
  folder_.write("p.npy", "before");
  {
    const auto file = make("p.npy", {{2}});
    ASSERT_TRUE(file->write(0, 0, packed_floats(values_)).ok());
    EXPECT_EQ(file->save([] { return Status(Error{"ended"}); }).error().message, "ended");
  }
  EXPECT_EQ(names(), std::vector<std::string>{"p.npy"});
  EXPECT_EQ(read_file(folder_.path() + "/p.npy").value(), "before");
}

TEST_F(PredictionFileTest, WhatCannotBeWrittenIsRefusedAtOnce) {
  const auto refusal = [&](const std::string& name, const std::vector<Shape>& shapes,
                           int64_t rows = 3) {
    const auto made = PredictionFile::create(folder_.path() + "/" + name, {"a", "b"}, shapes, rows);
    return made.ok() ? "" : made.error().message;
  };
  EXPECT_THAT(refusal("p.txt", {{2}}), HasSubstr("ends in .npy, .csv or .npz"));
  EXPECT_THAT(refusal("p.npy", {{2}, {2}}), HasSubstr("2 outputs (a, b)"));
  EXPECT_THAT(refusal("missing/p.npy", {{2}}), HasSubstr("missing/p.npy': No such file"));
  EXPECT_THAT(refusal("p.npz", {{1 << 20}}, 1 << 12), HasSubstr("an .npz file holds 4 GiB"));
  std::filesystem::create_directory(folder_.path() + "/folder.npy");
  EXPECT_THAT(refusal("folder.npy", {{2}}), HasSubstr("it is a folder"));
}

}  // namespace
}  // namespace lockstep
