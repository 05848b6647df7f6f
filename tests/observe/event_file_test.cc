#include "host/observe/event_file.h"

#include <gtest/gtest.h>

#include <cstring>

namespace lockstep {
namespace {

std::string hex(const std::string& bytes) {
  std::string text;
  for (const char c : bytes) {
    constexpr const char* kDigits = "0123456789abcdef";
    text += kDigits[static_cast<unsigned char>(c) >> 4];
    text += kDigits[static_cast<unsigned char>(c) & 15];
  }
  return text;
}

// These bytes were written by the package tensorboard 2.21.0 (RecordWriter,
// Event.SerializeToString).
TEST(EventFile, ItsBytesAreThoseThatTensorBoardWrites) {
  EXPECT_EQ(hex(event_file_begin(1.5)),
            "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a32"
            "2a28646c");
  EXPECT_EQ(hex(scalar_event(2.25, 300, {{"epoch_accuracy", 0.5}, {"epoch_loss", 1e-3}})),
            "3800000000000000a3797d5709000000000000024010ac022a2a0a150a0e65706f63685f"
            "6163637572616379150000003f0a110a0a65706f63685f6c6f7373156f12833a69393a98");
}

TEST(EventFile, ARecordHoldsItsLengthAndChecksums) {
  const std::string record = tf_record("abc");
  EXPECT_EQ(record.size(), 8u + 4 + 3 + 4);
  uint64_t length = 0;
  std::memcpy(&length, record.data(), 8);
  EXPECT_EQ(length, 3u);
  EXPECT_EQ(record.substr(12, 3), "abc");
}

}  // namespace
}  // namespace lockstep
