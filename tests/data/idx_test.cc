// Reading IDX files: what is read from good ones and said about bad ones.
#include "host/data/idx.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <vector>

#include "host/core/digest.h"
#include "tests/data/test_files.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

// Bytes 0, 1, 2, ... as text.
std::string counting(size_t count) {
  std::string bytes(count, '\0');
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>(i);
  return bytes;
}

// The message about a file with these contents, which must name the file and offer a remedy.
std::string message_about(const std::string& contents, IdxKind kind = IdxKind::images) {
  const TestFolder folder;
  const std::string path = folder.write("file-under-test", contents);
  const auto result = read_idx(path, kind);
  if (result.ok()) return "no error";
  EXPECT_THAT(result.error().message, HasSubstr("'" + path + "'"));
  EXPECT_THAT(result.error().message, ::testing::ContainsRegex("; |, so "));
  return result.error().message;
}

// Peak resident memory since the last call of forget_peak_memory().
int64_t peak_memory_bytes() {
  struct rusage usage {};
  EXPECT_EQ(0, ::getrusage(RUSAGE_SELF, &usage));
  return int64_t{usage.ru_maxrss} << 10;
}

// proc(5): 5 resets the high-water mark. Where that is not allowed the test sees less, no more.
void forget_peak_memory() { std::ofstream("/proc/self/clear_refs") << "5"; }

TEST(Idx, ReadsImagesOfRankThree) {
  const TestFolder folder;
  const std::string contents = idx_header({2, 3, 4}) + counting(24);
  const auto images = read_idx(folder.write("images", contents), IdxKind::images);
  ASSERT_TRUE(images.ok()) << images.error().message;
  EXPECT_EQ((Shape{2, 3, 4}), images->dimensions);
  EXPECT_EQ(2, images->rows());
  EXPECT_EQ(counting(24), std::string(images->values.begin(), images->values.end()));
  EXPECT_EQ(sha256_hex(contents), images->sha256);
}

TEST(Idx, ReadsImagesOfRankFour) {
  const TestFolder folder;
  const auto images =
      read_idx(folder.write("images", idx_header({2, 3, 2, 3}) + counting(36)), IdxKind::images);
  ASSERT_TRUE(images.ok()) << images.error().message;
  EXPECT_EQ((Shape{2, 3, 2, 3}), images->dimensions);
}

TEST(Idx, ReadsLabels) {
  const TestFolder folder;
  const auto labels = read_idx(folder.write("labels", idx_labels(7, 3)), IdxKind::labels);
  ASSERT_TRUE(labels.ok()) << labels.error().message;
  EXPECT_EQ((std::vector<uint8_t>{0, 1, 2, 0, 1, 2, 0}), labels->values);
}

// Larger than every buffer on the way; the name says nothing about the compression.
TEST(Idx, ReadsGzipByContent) {
  const TestFolder folder;
  const std::string contents = idx_images(1100, 28, 28);
  const auto plain = read_idx(folder.write("plain.gz", contents), IdxKind::images);
  const auto zipped = read_idx(folder.write("zipped", gzip(contents)), IdxKind::images);
  ASSERT_TRUE(plain.ok()) << plain.error().message;
  ASSERT_TRUE(zipped.ok()) << zipped.error().message;
  EXPECT_EQ(plain->values, zipped->values);
  EXPECT_EQ(sha256_hex(contents), plain->sha256);
  EXPECT_EQ(plain->sha256, zipped->sha256);
}

TEST(Idx, ReadsGzipThatCompressesALot) {
  const TestFolder folder;
  const std::string contents = idx_header({4000, 28, 28}) + std::string(4000 * 28 * 28, '\7');
  const auto images = read_idx(folder.write("images", gzip(contents)), IdxKind::images);
  ASSERT_TRUE(images.ok()) << images.error().message;
  EXPECT_EQ(sha256_hex(contents), images->sha256);
}

TEST(Idx, ReadsGzipOfSeveralMembers) {
  const TestFolder folder;
  const std::string contents = idx_images(10, 5, 5);
  const std::string zipped = gzip(contents.substr(0, 100)) + gzip(contents.substr(100));
  const auto images = read_idx(folder.write("images", zipped), IdxKind::images);
  ASSERT_TRUE(images.ok()) << images.error().message;
  EXPECT_EQ(sha256_hex(contents), images->sha256);
}

TEST(Idx, MissingFile) {
  const auto result = read_idx("/no/such/folder/images", IdxKind::images);
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr("'/no/such/folder/images': No such file"));
}

TEST(Idx, Folder) {
  const TestFolder folder;
  const auto result = read_idx(folder.path(), IdxKind::images);
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr(folder.path() + "': it is not a file"));
}

TEST(Idx, NotAllowed) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read every file";
  const TestFolder folder;
  const std::string path = folder.write("images", idx_images(2, 2, 2));
  std::filesystem::permissions(path, std::filesystem::perms::none);
  const auto result = read_idx(path, IdxKind::images);
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr("Permission denied"));
}

TEST(Idx, Empty) {
  EXPECT_THAT(message_about(""), HasSubstr("is empty; copy or download it again"));
  EXPECT_THAT(message_about(gzip("")), HasSubstr("is empty once inflated"));
}

TEST(Idx, EndsInTheHeader) {
  const std::string header = idx_header({2, 3, 4});
  EXPECT_THAT(message_about(header.substr(0, 3)), HasSubstr("it holds 3 bytes"));
  EXPECT_THAT(message_about(header.substr(0, 9)),
              HasSubstr("ends early: its header has 16 bytes, and 9 were found"));
  EXPECT_THAT(message_about(gzip(header.substr(0, 9))),
              HasSubstr("its header has 16 bytes, and 9 were found once inflated"));
}

TEST(Idx, Truncated) {
  const std::string contents = idx_images(5, 4, 3).substr(0, 16 + 59);
  const std::string expected =
      "ends early: its header says 5 rows of shape (4, 3), 76 bytes in all, and 75 were found";
  EXPECT_THAT(message_about(contents), HasSubstr(expected + "; copy or download it again"));
  EXPECT_THAT(message_about(gzip(contents)), HasSubstr(expected + " once inflated"));
  EXPECT_THAT(message_about(idx_labels(9, 3).substr(0, 12), IdxKind::labels),
              HasSubstr("its header says 9 rows, 17 bytes in all, and 12 were found"));
}

TEST(Idx, TrailingBytes) {
  const std::string contents = idx_images(5, 4, 3);
  EXPECT_THAT(message_about(contents + "x"),
              HasSubstr("is too long: its header says 5 rows of shape (4, 3), 76 bytes in all, and "
                        "77 were found"));
  EXPECT_THAT(message_about(gzip(contents + "x")),
              HasSubstr("is too long: its header says 5 rows of shape (4, 3), 76 bytes in all, and "
                        "more were found once inflated"));
}

TEST(Idx, WrongMagic) {
  EXPECT_THAT(message_about("\x89PNG and so on"),
              HasSubstr("is no IDX file: it begins with 89 50 4e 47, where images begin with 00 00 "
                        "08 03 or 04"));
  EXPECT_THAT(message_about("hello, world", IdxKind::labels),
              HasSubstr("where labels begin with 00 00 08 01"));
}

TEST(Idx, WrongElementType) {
  const std::string floats = idx_header({2, 2, 2}, 0x0D) + std::string(32, '\0');
  EXPECT_THAT(message_about(floats),
              HasSubstr("holds 32-bit floats (element type 0x0D), and only unsigned bytes (0x08)"));
  EXPECT_THAT(message_about(idx_header({2, 2, 2}, 0x77)), HasSubstr("an unknown type"));
}

TEST(Idx, WrongRank) {
  EXPECT_THAT(message_about(idx_labels(5, 3), IdxKind::images),
              HasSubstr("has 1 dimensions, and images have 3 (rows, height, width) or 4"));
  EXPECT_THAT(message_about(idx_images(2, 3, 4), IdxKind::labels),
              HasSubstr("has 3 dimensions, and labels have 1; check that images and labels are not "
                        "swapped"));
  EXPECT_THAT(message_about(std::string("\0\0\x08\xff", 4)), HasSubstr("has 255 dimensions"));
}

TEST(Idx, DimensionsOfZero) {
  EXPECT_THAT(message_about(idx_header({0, 28, 28})), HasSubstr("dimensions of (0, 28, 28)"));
  EXPECT_THAT(message_about(idx_header({10, 0, 28})), HasSubstr("dimensions of (10, 0, 28)"));
}

TEST(Idx, DamagedGzip) {
  const std::string zipped = gzip(idx_images(50, 28, 28));
  std::string bad_content = zipped;
  for (size_t i = 0; i < 200; ++i) bad_content[zipped.size() / 2 + i] ^= '\x5a';
  EXPECT_THAT(message_about(bad_content), HasSubstr("is a damaged gzip file: "));
  std::string bad_checksum = zipped;
  bad_checksum[zipped.size() - 8] ^= 1;
  EXPECT_THAT(message_about(bad_checksum),
              HasSubstr("is a damaged gzip file: incorrect data check; copy or download it again"));
  std::string bad_length = zipped;
  bad_length[zipped.size() - 1] ^= 1;
  EXPECT_THAT(message_about(bad_length), HasSubstr("incorrect length check"));
  EXPECT_THAT(message_about(zipped + "no gzip"), HasSubstr("incorrect header check"));
}

TEST(Idx, GzipCutShort) {
  const std::string zipped = gzip(idx_images(50, 28, 28));
  const std::string half = message_about(zipped.substr(0, zipped.size() / 2));
  EXPECT_THAT(half, HasSubstr("its header says 50 rows of shape (28, 28), 39216 bytes in all"));
  EXPECT_THAT(message_about(zipped.substr(0, zipped.size() - 6)),
              HasSubstr("it ends before its checksum"));
}

TEST(Idx, HugeHeaderTakesNoMemory) {
  constexpr uint32_t kMany = 1u << 31;
  forget_peak_memory();
  const int64_t before = peak_memory_bytes();
  const std::string plain = idx_header({kMany, 28, 28}) + "a few";
  EXPECT_THAT(
      message_about(plain),
      HasSubstr("says 2147483648 rows of shape (28, 28), 1683627180048 bytes in all, and 21 "
                "were found"));
  EXPECT_THAT(message_about(gzip(plain)), HasSubstr("bytes of gzip can hold"));
  EXPECT_THAT(message_about(idx_header({kMany, kMany, kMany}) + "a few"),
              HasSubstr("dimensions of (2147483648, 2147483648, 2147483648)"));
  // No more than such a file can hold, yet far more than it does hold.
  const std::string padded = gzip(idx_header({200000, 28, 28}) + some_bytes(200000));
  EXPECT_THAT(message_about(padded), HasSubstr("and 200016 were found once inflated"));
  EXPECT_LT(peak_memory_bytes() - before, 32 << 20);
}

TEST(Idx, GzipBombIsNotInflated) {
  // A thousand members of 64 KiB.
  std::string bomb = gzip(idx_header({10, 2, 2}));
  const std::string member = gzip(std::string(64 << 10, '\0'));
  for (int i = 0; i < 1000; ++i) bomb += member;
  forget_peak_memory();
  const int64_t before = peak_memory_bytes();
  EXPECT_THAT(message_about(bomb), HasSubstr("is too long"));
  EXPECT_LT(peak_memory_bytes() - before, 16 << 20);
}

}  // namespace
}  // namespace lockstep
