#include "host/observe/event_file.h"

#include <cstring>

#include "host/core/digest.h"

namespace lockstep {
namespace {

// Of protocol buffers' encoding.
enum class WireType : uint32_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

// Field numbers of Event, Summary and Summary.Value.
constexpr uint32_t kWallTime = 1;
constexpr uint32_t kStep = 2;
constexpr uint32_t kFileVersion = 3;
constexpr uint32_t kSummary = 5;
constexpr uint32_t kValue = 1;
constexpr uint32_t kTag = 1;
constexpr uint32_t kSimpleValue = 2;

// Little-endian.
template <class T>
void append(const T& value, std::string* to) {
  to->append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void append_varint(uint64_t value, std::string* to) {
  for (; value >= 0x80; value >>= 7) to->push_back(static_cast<char>(value | 0x80));
  to->push_back(static_cast<char>(value));
}

void append_key(uint32_t field, WireType type, std::string* to) {
  append_varint(field << 3 | static_cast<uint32_t>(type), to);
}

void append_bytes(uint32_t field, std::string_view bytes, std::string* to) {
  append_key(field, WireType::bytes, to);
  append_varint(bytes.size(), to);
  to->append(bytes);
}

std::string event_at(double wall_time) {
  std::string event;
  append_key(kWallTime, WireType::fixed64, &event);
  append(wall_time, &event);
  return event;
}

// TFRecord masks the checksums of what may itself hold checksums.
uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes.data(), bytes.size());
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

}  // namespace

std::string tf_record(std::string_view bytes) {
  std::string record;
  append(static_cast<uint64_t>(bytes.size()), &record);
  append(masked_crc(record), &record);
  record += bytes;
  append(masked_crc(bytes), &record);
  return record;
}

std::string event_file_begin(double wall_time) {
  std::string event = event_at(wall_time);
  append_bytes(kFileVersion, "brain.Event:2", &event);
  return tf_record(event);
}

std::string scalar_event(double wall_time, int64_t step,
                         const std::map<std::string, double>& scalars) {
  std::string summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;
    append_bytes(kTag, tag, &value);
    append_key(kSimpleValue, WireType::fixed32, &value);
    append(static_cast<float>(number), &value);
    append_bytes(kValue, value, &summary);
  }
  std::string event = event_at(wall_time);
  append_key(kStep, WireType::varint, &event);
  append_varint(static_cast<uint64_t>(step), &event);
  append_bytes(kSummary, summary, &event);
  return tf_record(event);
}

}  // namespace lockstep
