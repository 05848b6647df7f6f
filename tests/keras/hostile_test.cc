// Files that claim what is not there, or reach for what is not theirs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "host/core/files.h"
#include "host/data/zip_writer.h"
#include "host/keras/hdf5_writer.h"
#include "host/keras/safetensors.h"
#include "tests/keras/keras_files.h"
#include "tests/support/test_folder.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// Why the small model cannot be made from these weights.
class HostileTest : public testing::Test {
 protected:
  std::string weights_error(const std::string& path) const {
    const auto file = read_model_file(path);
    if (!file.ok()) return file.error().message;
    if (!file->has_weights()) return "no weights";
    const auto weights = read_weights(*file, *model_, graph_.parameters);
    return weights.ok() ? "" : weights.error().message;
  }
  // Written without the care that tests of crashes need: there are many.
  static void write(const std::string& path, const std::string& content) {
    std::ofstream(path, std::ios::binary) << content;
  }

 private:
  const std::unique_ptr<Model> model_ =
      model_from_config(read_model_file(keras_path("small.json"))->config).value();
  const Graph graph_ = model_->predict_graph().value();
};

TEST_F(HostileTest, NothingIsFollowedOutOfTheFile) {
  EXPECT_EQ(weights_error(keras_path("small.weights.h5")), "");
  EXPECT_THAT(
      weights_error(keras_path("soft_link.weights.h5")),
      AllOf(HasSubstr("'layers/dense/vars/0' is a soft link"), HasSubstr("save the model")));
  EXPECT_THAT(weights_error(keras_path("external_link.weights.h5")),
              HasSubstr("'layers/dense/vars/0' is an external link"));
  EXPECT_THAT(weights_error(keras_path("external_storage.weights.h5")),
              HasSubstr("'layers/dense/vars/0' keeps its values in other files"));
  EXPECT_THAT(weights_error(keras_path("virtual.weights.h5")),
              HasSubstr("'layers/dense/vars/0' keeps its values in other files"));
}

TEST_F(HostileTest, NoMoreThanTheFileHolds) {
  EXPECT_THAT(weights_error(keras_path("claims.weights.h5")),
              HasSubstr("'layers/dense/vars/0' claims 1073741824 bytes, more than the file holds"));
}

TEST_F(HostileTest, PiecesOfOtherForms) {
  EXPECT_THAT(
      weights_error(keras_path("claims_pieces.weights.h5")),
      HasSubstr("'layers/dense/vars/0' claims 240 bytes in pieces that are not all in the"));
  EXPECT_THAT(
      weights_error(keras_path("pieces_lzf.weights.h5")),
      HasSubstr("'layers/dense/vars/0' is stored with the filter 'lzf', which is not read"));
  EXPECT_THAT(weights_error(keras_path("pieces_latest.weights.h5")),
              HasSubstr("'layers/dense/vars/0' is stored in pieces of a form that is not read"));
}

// A piece that says it is another's bytes, or has another place or size.
TEST_F(HostileTest, PiecesThatAreNotWhereTheyAre) {
  const TestFolder folder;
  const std::string path = folder.path() + "/pieces.h5";
  const std::string whole = read_file(keras_path("many_pieces.h5")).value();
  const auto values = [&](const std::string& content) {
    write(path, content);
    const auto file = Hdf5File::open(map_file(path).value(), path);
    return file.ok() ? file->array("many") : Result<Field>(file.error());
  };
  EXPECT_TRUE(values(whole).ok());
  // The first leaf of the tree of pieces: its first entries, of (4, 4) shorts each.
  const size_t leaf = whole.find(std::string("TREE\1\0", 6));
  ASSERT_NE(leaf, std::string::npos);
  constexpr size_t kHead = 24, kKey = 4 + 4 + 3 * 8, kEntry = kKey + 8;
  std::string twice = whole;  // the second piece is at the first's place
  twice.replace(leaf + kHead + kEntry, kKey, whole, leaf + kHead, kKey);
  std::string astray = whole;
  astray[leaf + kHead + 8] = 1;
  std::string outside = whole;
  outside[leaf + kHead + kKey + 5] = 1;
  std::string shorter = whole;
  shorter[leaf + kHead] = 31;
  std::string inner = whole;  // a leaf that says it is none
  inner[leaf + 5] = 1;
  for (const auto& changed : {twice, astray, outside, shorter, inner}) {
    EXPECT_THAT(values(changed).error().message, HasSubstr("'many' claims 2400 bytes in pieces"));
  }
}

TEST_F(HostileTest, PathsStayInTheArchive) {
  EXPECT_THAT(read_model_file(keras_path("leaves.keras")).error().message,
              HasSubstr("holds a member '../../escape' whose path leaves the archive"));
  EXPECT_THAT(read_model_file(keras_path("absolute.keras")).error().message,
              HasSubstr("holds a member '/etc/escape' whose path leaves the archive"));
}

TEST_F(HostileTest, AUserBlockMayStandBefore) {
  const TestFolder folder;
  const std::string path = folder.path() + "/block.weights.h5";
  std::string file = read_file(keras_path("small.weights.h5")).value();
  constexpr size_t kEndAt = 40, kBlock = 512;  // the file's size in its first block
  const uint64_t size = file.size() + kBlock;
  file.replace(kEndAt, sizeof(size), reinterpret_cast<const char*>(&size), sizeof(size));
  write(path, std::string(kBlock, ' ') + file);
  EXPECT_EQ(weights_error(path), "");
}

TEST_F(HostileTest, NamesAndMembersThatAreTooLongAreRefused) {
  const TestFolder folder;
  Hdf5Writer long_names;
  long_names.add_group("vars");
  long_names.add_group("layers/" + std::string(2000, 'x'));
  const std::string weights = folder.path() + "/long.weights.h5";
  write(weights, long_names.finish().value());
  EXPECT_THAT(weights_error(weights), HasSubstr("'layers' is damaged"));

  std::string archive = make_zip({{"metadata.json", "{}"}, {"config.json", "{}"}}).value();
  constexpr size_t kSizeAt = 24;  // in an entry of the directory
  archive.replace(archive.find("PK\1\2") + kSizeAt, 4, std::string("\0\0\0\x20", 4));
  const std::string path = folder.path() + "/metadata.keras";
  write(path, archive);
  EXPECT_THAT(read_model_file(path).error().message,
              HasSubstr("has a metadata.json of 536870912 bytes"));
}

TEST_F(HostileTest, HeadersOfSafetensorsMayHoldAnything) {
  const TestFolder folder;
  const std::string path = folder.path() + "/weights.safetensors";
  const std::vector<Parameter> parameters = {{"dense", "kernel", {2, 2}}};
  for (const char* entry :
       {"5", "{\"dtype\": \"F32\", \"shape\": \"no\"}", "{\"dtype\": 4, \"shape\": [2, 2]}"}) {
    const std::string header = "{\"dense/kernel\": " + std::string(entry) + "}";
    const uint64_t size = header.size();
    write(path, std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header);
    EXPECT_THAT(read_safetensors(path, parameters).error().message,
                HasSubstr("is not a sound safetensors file"))
        << entry;
  }
}

TEST_F(HostileTest, CodeIsRefusedAllAtOnce) {
  const auto file = read_model_file(keras_path("lambda.keras")).value();
  EXPECT_THAT(model_from_config(file.config).error().message,
              AllOf(HasSubstr("layer 'twice': layer Lambda is refused: it holds Python code"),
                    HasSubstr("layer 'bins': layer Discretization is refused")));
}

TEST_F(HostileTest, CutFilesAreErrors) {
  const TestFolder folder;
  for (const char* name :
       {"small.keras", "small_deflated.keras", "small.h5", "small.weights.h5", "small.json"}) {
    const std::string whole = read_file(keras_path(name)).value();
    for (const double share : {0.1, 0.5, 0.9, 0.99}) {
      SCOPED_TRACE(std::string(name) + " " + std::to_string(share));
      const std::string path = folder.path() + "/cut";
      const auto size = static_cast<size_t>(share * static_cast<double>(whole.size()));
      write(path, whole.substr(0, size));
      EXPECT_NE(weights_error(path), "");
    }
  }
}

// One byte changed anywhere: an error or other numbers, but no crash.
TEST_F(HostileTest, ChangedBytesAreSurvived) {
  const TestFolder folder;
  const std::string path = folder.path() + "/changed";
  for (const char* name :
       {"small_deflated.keras", "small.weights.h5", "small.h5", "pieces.weights.h5"}) {
    const std::string whole = read_file(keras_path(name)).value();
    for (size_t at = 0; at < whole.size(); at += 1 + whole.size() / 60) {
      std::string changed = whole;
      changed[at] = static_cast<char>(changed[at] ^ 0xff);
      write(path, changed);
      weights_error(path);
    }
  }
}

TEST_F(HostileTest, DeepJsonIsRefused) {
  const TestFolder folder;
  const std::string path = folder.path() + "/deep.json";
  const std::string deep = "{\"class_name\": " + std::string(100'000, '[');
  write(path, deep);
  EXPECT_THAT(read_model_file(path).error().message, HasSubstr("nests more than 200 deep"));
}

TEST_F(HostileTest, OtherFilesAreNamed) {
  const TestFolder folder;
  const std::string path = folder.path() + "/notes.txt";
  write(path, "hello");
  EXPECT_THAT(read_model_file(path).error().message, HasSubstr("is no model: expected a .keras"));
  EXPECT_THAT(read_model_file(folder.path()).error().message, HasSubstr("holds no config.json"));
  EXPECT_FALSE(read_model_file(folder.path() + "/none.keras").ok());
}

}  // namespace
}  // namespace lockstep
