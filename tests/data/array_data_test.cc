// NPZ files and folders of NPY files as data sets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "host/core/digest.h"
#include "host/data/dataset.h"
#include "host/data/zip_archive.h"
#include "tests/data/test_files.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

Dataset load(const std::string& spec, Split split = Split::train, const DataOptions& options = {}) {
  const auto data = load_dataset(spec, split, options);
  EXPECT_TRUE(data.ok()) << data.error().message;
  return data.ok() ? *data : Dataset{};
}

std::string array_message_of(const std::string& spec, Split split = Split::train,
                             const DataOptions& options = {}) {
  const auto data = load_dataset(spec, split, options);
  return data.ok() ? "no error" : data.error().message;
}

std::vector<float> row_of(const Field& field, int64_t row) {
  std::vector<float> values(static_cast<size_t>(field.features()));
  field.copy_floats(row * field.features(), field.features(), values.data());
  return values;
}

// The member `name` of stored.npz, without any archive.
std::string member_bytes(const std::string& name) {
  const std::string archive = array_file("stored.npz");
  const size_t at = archive.find(name + ".npy");
  const size_t begin = archive.find("\x93NUMPY", at);
  return archive.substr(begin, archive.find("PK", begin) - begin);
}

TEST(ArrayData, SplitsOfAnNpzFile) {
  for (const char* name : {"stored.npz", "deflated.npz"}) {
    const Dataset train = load(array_path(name));
    EXPECT_EQ(6, train.rows());
    EXPECT_EQ((Shape{2}), train.row_shape);
    EXPECT_EQ(3, train.classes);
    EXPECT_EQ((std::vector<float>{0.25f, 0.5f}), row_of(train.inputs[0], 2));
    ASSERT_TRUE(train.weights.size() == 1);
    EXPECT_EQ((std::vector<float>{1.5f}), row_of(train.weights[0], 2));
    const Dataset test = load(array_path(name), Split::test);
    EXPECT_EQ(3, test.rows());
    EXPECT_EQ((std::vector<float>{2, 3}), row_of(test.inputs[0], 1));  // bytes, not scaled
    EXPECT_TRUE(test.weights.empty());                                 // those are of other rows
    EXPECT_EQ(test.digest, load(array_path(name), Split::validation).digest);
  }
}

TEST(ArrayData, TargetsHaveWeightsOfTheirOwn) {
  const TestFolder folder;
  folder.write("x.npy", member_bytes("x_train"));
  for (const char* name : {"a", "b"}) {
    folder.write(std::string(name) + ".npy", member_bytes("y_train"));
    folder.write(std::string(name) + "_sample_weight.npy", member_bytes("sample_weight"));
  }
  DataOptions options;
  options.targets = {"b", "a"};
  const Dataset data = load(folder.path(), Split::train, options);
  ASSERT_EQ(1u, data.inputs.size());
  ASSERT_EQ(2u, data.weights.size());
  EXPECT_EQ("b_sample_weight", data.weights[0].name);
  folder.write("sample_weight.npy", member_bytes("sample_weight"));
  EXPECT_THAT(array_message_of(folder.path(), Split::train, options), HasSubstr("leave one out"));
  const TestFolder half;
  for (const char* name : {"x", "a", "b", "a_sample_weight"}) {
    half.write(std::string(name) + ".npy", member_bytes(*name == 'x'     ? "x_train"
                                                        : name[1] == '_' ? "sample_weight"
                                                                         : "y_train"));
  }
  EXPECT_THAT(array_message_of(half.path(), Split::train, options), HasSubstr("b_sample_weight"));
}

TEST(ArrayData, DigestIsThatOfTheArrays) {
  const std::string x = member_bytes("x_train");
  const std::string y = member_bytes("y_train");
  const std::string weights = member_bytes("sample_weight");
  const std::string expected =
      sha256_hex("lockstep data 1\nx 6 " + sha256_hex(x) + "\ny 6 " + sha256_hex(y) +
                 "\nsample_weight 6 " + sha256_hex(weights) + "\n");
  EXPECT_EQ(expected, load(array_path("stored.npz")).digest);
  EXPECT_EQ(expected, load(array_path("deflated.npz")).digest);
  const TestFolder folder;
  folder.write("x.npy", x);
  folder.write("y_train.npy", y);
  folder.write("sample_weight.npy", weights);
  EXPECT_EQ(expected, load(folder.path()).digest);
  EXPECT_EQ(3, load(folder.path()).classes);
}

TEST(ArrayData, NamedInputsAndTargets) {
  const std::string path = array_path("named.npz");
  EXPECT_THAT(array_message_of(path),
              HasSubstr("holds no array x_train or x, but age, image, price, "
                        "rating; name the arrays so, or say which are targets "
                        "with --target"));
  DataOptions options;
  options.targets = {"rating", "price"};
  const Dataset data = load(path, Split::train, options);
  ASSERT_EQ(2u, data.inputs.size());
  EXPECT_EQ("age", data.inputs[0].name);
  EXPECT_EQ((Shape{2, 2}), data.inputs[1].row_shape);
  EXPECT_EQ(1, data.inputs[1].offset);
  EXPECT_EQ((Shape{5}), data.row_shape);
  EXPECT_EQ(5, data.features());
  EXPECT_EQ("rating", data.targets[0].name);
  EXPECT_EQ(1, data.targets[1].offset);
  EXPECT_EQ(3, data.target_features());
  EXPECT_EQ(0, data.classes);

  options.inputs = {"image", "age"};  // a model's order
  options.targets = {"rating"};
  const Dataset other = load(path, Split::train, options);
  EXPECT_EQ("image", other.inputs[0].name);
  EXPECT_EQ(4, other.inputs[1].offset);
  EXPECT_EQ(5, other.classes);
  EXPECT_NE(data.digest, other.digest);

  options.targets = {"ratings"};
  EXPECT_THAT(array_message_of(path, Split::train, options),
              HasSubstr("no array ratings_train or ratings"));
  options = {};
  options.targets = {"z"};  // is not taken for y
  EXPECT_THAT(array_message_of(array_path("stored.npz"), Split::train, options),
              HasSubstr("no array z_train or z, but sample_weight, x_test"));
}

TEST(ArrayData, AnOnlyInputMayBeCalledX) {
  DataOptions options;
  options.inputs = {"input_layer"};
  options.targets = {"dense_2"};
  const Dataset data = load(array_path("stored.npz"), Split::train, options);
  EXPECT_EQ("input_layer", data.inputs[0].name);
  EXPECT_EQ("dense_2", data.targets[0].name);
  EXPECT_EQ(3, data.classes);
}

TEST(ArrayData, WithoutTargets) {
  const TestFolder folder;
  folder.write("x.npy", array_file("f4.npy"));
  EXPECT_THAT(array_message_of(folder.path()), HasSubstr("holds no array y_train or y, but x;"));
  DataOptions options;
  options.needs_targets = false;
  const Dataset data = load(folder.path(), Split::test, options);
  EXPECT_EQ(4, data.rows());
  EXPECT_TRUE(data.targets.empty());
  EXPECT_EQ(0, data.classes);
}

TEST(ArrayData, WhenTargetsAreClasses) {
  const auto classes_of = [](const std::string& type, const std::string& values) {
    const TestFolder folder;
    const std::string rest = "', 'fortran_order': False, 'shape': (2,)}";
    folder.write("x.npy", npy_file("{'descr': '|u1" + rest, "ab"));
    folder.write("y.npy", npy_file("{'descr': '" + type + rest, values));
    return load(folder.path()).classes;
  };
  const auto floats = [](float a, float b) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &a, 4);
    std::memcpy(bytes.data() + 4, &b, 4);
    return bytes;
  };
  EXPECT_EQ(8, classes_of("|u1", "\x07\x03"));
  EXPECT_EQ(2, classes_of("|b1", std::string(2, '\0')));
  EXPECT_EQ(0, classes_of("|i1", "\x07\xff"));
  EXPECT_EQ(3, classes_of("<f4", floats(0, 2)));
  EXPECT_EQ(0, classes_of("<f4", floats(0, 2.5f)));
  EXPECT_EQ(0, classes_of("<f4", floats(0, NAN)));
  EXPECT_EQ(0, classes_of("<f4", floats(0, INFINITY)));
  EXPECT_EQ(0, classes_of("<f4", floats(0, 2147483648.0f)));
  EXPECT_EQ(2147483520 + 1, classes_of("<f4", floats(0, 2147483520.0f)));
}

TEST(ArrayData, WhatDoesNotBelongTogether) {
  const TestFolder folder;
  folder.write("x.npy", array_file("f4.npy"));
  folder.write("y.npy", array_file("half.npy"));
  EXPECT_THAT(array_message_of(folder.path()),
              HasSubstr("'x' has 4 rows and 'y' 10; check that they belong together"));
  folder.write("y.npy", array_file("f8.npy"));
  folder.write("x.npy", array_file("objects.npy"));
  EXPECT_THAT(array_message_of(folder.path()),
              HasSubstr("'" + folder.path() + "/x.npy' holds objects, which are pickled Python"));
  folder.write("train-images-idx3-ubyte", idx_images(6, 4, 5));
  EXPECT_THAT(array_message_of(folder.path()), HasSubstr("holds IDX and NPY files"));
}

TEST(ArrayData, FilesOfOtherKinds) {
  const TestFolder folder;
  EXPECT_THAT(array_message_of(array_path("f4.npy")), HasSubstr("is one array"));
  EXPECT_THAT(array_message_of(folder.write("a", "")), HasSubstr("is empty"));
  EXPECT_THAT(array_message_of(folder.write("b", std::string("\x89HDF\r\n\x1a\n\0\0", 10))),
              HasSubstr("is of no kind that can be read: it begins with 89 48 44 46"));
  DataOptions options;
  options.missing = 0;
  EXPECT_THAT(array_message_of(array_path("stored.npz"), Split::train, options),
              HasSubstr("--missing is for CSV files"));
  EXPECT_THAT(array_message_of("digits:10", Split::train, options), HasSubstr("--missing"));
  options = {};
  options.targets = {"y"};
  EXPECT_THAT(array_message_of("digits:10", Split::train, options), HasSubstr("--target"));
}

TEST(ArrayData, StoredMembersAreNotCopied) {
  const auto is_inside = [](const std::string& name) {
    const SharedBytes file = map_file(array_path(name)).value();
    const ZipArchive archive = ZipArchive::open(file, name).value();
    EXPECT_EQ(5u, archive.members().size());
    EXPECT_EQ("x_train.npy", archive.members()[0].name);
    const SharedBytes member = archive.read(archive.members()[0]).value();
    EXPECT_EQ(member_bytes("x_train"),
              std::string(reinterpret_cast<const char*>(member.data()), member.size()));
    return file.data() < member.data() && member.data() < file.data() + file.size();
  };
  EXPECT_TRUE(is_inside("stored.npz"));
  EXPECT_FALSE(is_inside("deflated.npz"));
}

TEST(ArrayData, DamagedArchives) {
  const TestFolder folder;
  const std::string whole = array_file("stored.npz");
  for (size_t size = 4; size < whole.size(); size += 7) {
    EXPECT_THAT(array_message_of(folder.write("cut.npz", whole.substr(0, size))),
                HasSubstr("no directory of its members ends it"));
  }
  const auto with_byte = [&](size_t at, int change) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] + change);
    return array_message_of(folder.write("changed.npz", bytes));
  };
  const size_t value = whole.find("\x93NUMPY") + 130;
  EXPECT_THAT(with_byte(value, 1), HasSubstr("does not have the checksum"));
  const size_t entry = whole.find("PK\1\2");
  EXPECT_THAT(with_byte(entry, 1), HasSubstr("entry 0 of its directory"));
  EXPECT_THAT(with_byte(entry + 8, 1), HasSubstr("is encrypted"));
  EXPECT_THAT(with_byte(entry + 22, 1), HasSubstr("more than the file holds"));
  EXPECT_THAT(with_byte(entry + 24, 1), HasSubstr("two sizes"));
  EXPECT_THAT(with_byte(entry + 42, 1), HasSubstr("is not where its directory says"));
  EXPECT_THAT(with_byte(entry + 46, -'x' + 1), HasSubstr("control characters"));
  EXPECT_THAT(array_message_of(array_path("lzma.npz")), HasSubstr("is compressed with method 14"));
  const std::string deflated = array_file("deflated.npz");
  std::string bomb = deflated;
  const size_t deflated_entry = deflated.find("PK\1\2");
  bomb[deflated_entry + 27] = '\x7f';
  EXPECT_THAT(array_message_of(folder.write("bomb.npz", bomb)),
              HasSubstr("deflated ones can hold"));
  bomb = deflated;
  ++bomb[deflated_entry + 24];
  EXPECT_THAT(array_message_of(folder.write("bomb.npz", bomb)),
              HasSubstr("does not inflate to the"));
  const std::string end = whole.substr(whole.size() - 22);
  std::string many = whole;
  many[whole.size() - 22 + 10] = '\xff';
  EXPECT_THAT(array_message_of(folder.write("many.npz", many)), HasSubstr("no directory"));
  EXPECT_THAT(array_message_of(folder.write("none.npz", end.substr(0, 4) + std::string(18, '\0'))),
              HasSubstr("but none at all"));
}

}  // namespace
}  // namespace lockstep
