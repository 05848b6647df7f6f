// Hashes against published values.
#include "host/core/digest.h"

#include <gtest/gtest.h>

#include <vector>

namespace lockstep {
namespace {

// FIPS 180-2, appendix B.
TEST(Sha256, KnownAnswers) {
  EXPECT_EQ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", sha256_hex("abc"));
  EXPECT_EQ("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", sha256_hex(""));
  EXPECT_EQ("248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"));
  EXPECT_EQ("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
            sha256_hex(std::string(1000000, 'a')));
}

TEST(Sha256, PiecesEqualTheWhole) {
  std::string bytes;
  for (int i = 0; i < 1000; ++i) bytes += static_cast<char>(i * 7);
  for (const size_t piece : {1, 3, 63, 64, 65, 999}) {
    Sha256 hash;
    hash.update("");
    for (size_t begin = 0; begin < bytes.size(); begin += piece) {
      hash.update(std::string_view(bytes).substr(begin, piece));
    }
    EXPECT_EQ(sha256_hex(bytes), hash.hex()) << piece << " bytes a piece";
  }
}

// RFC 3720, B.4.
TEST(Crc32c, KnownAnswers) {
  std::string rising;
  for (int i = 0; i < 32; ++i) rising += static_cast<char>(i);
  const std::string falling(rising.rbegin(), rising.rend());
  EXPECT_EQ(0x8a9136aau, crc32c(std::string(32, '\0').data(), 32));
  EXPECT_EQ(0x62a8ab43u, crc32c(std::string(32, '\xff').data(), 32));
  EXPECT_EQ(0x46dd794eu, crc32c(rising.data(), 32));
  EXPECT_EQ(0x113fdb5cu, crc32c(falling.data(), 32));
  EXPECT_EQ(0xe3069283u, crc32c("123456789", 9));
  EXPECT_EQ(0u, crc32c("", 0));
}

TEST(Crc32c, PiecesEqualTheWhole) {
  EXPECT_EQ(crc32c("123456789", 9), crc32c("56789", 5, crc32c("1234", 4)));
}

TEST(Xxh3, KnownAnswers) {
  EXPECT_EQ(0x2d06800538d394c2u, xxh3("", 0));
  EXPECT_NE(xxh3("abc", 3), xxh3("abd", 3));
  EXPECT_EQ(xxh3("abcd", 3), xxh3("abc", 3));
}

TEST(Xxh3, OfPartsIsThatOfTheWhole) {
  std::vector<char> bytes(3000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7);
  Xxh3 parts;
  EXPECT_EQ(parts.value(), xxh3("", 0));
  parts.update(bytes.data(), 1000);
  EXPECT_EQ(parts.value(), xxh3(bytes.data(), 1000));
  parts.update(bytes.data() + 1000, 1);
  parts.update(bytes.data() + 1001, 1999);
  EXPECT_EQ(parts.value(), xxh3(bytes.data(), 3000));
}

TEST(Hex64, HasSixteenDigits) {
  EXPECT_EQ("0000000000000000", hex64(0));
  EXPECT_EQ("00000000000000ff", hex64(255));
  EXPECT_EQ("fedcba9876543210", hex64(0xfedcba9876543210));
}

}  // namespace
}  // namespace lockstep
