#include "host/data/zip_writer.h"

#include <fmt/format.h>
#include <zlib.h>

#include <cstdint>

#include "host/core/check.h"
#include "host/data/zip_archive.h"

namespace lockstep {
namespace {

constexpr uint16_t kVersion = 20;         // needed to extract: folders, no zip64
constexpr uint16_t kDate = (1 << 5) | 1;  // 1980-01-01: the same bytes for the same members
constexpr size_t kRecordBytes = 128;      // more than the records of a member take beside its name

void append_number(uint64_t value, int bytes, std::string* text) {
  for (int i = 0; i < bytes; ++i) text->push_back(static_cast<char>(value >> (8 * i)));
}

// What a member's own header and its entry in the directory have in common.
void append_description(const NewZipMember& member, uint32_t crc, std::string* text) {
  append_number(kVersion, 2, text);
  append_number(0, 2, text);  // flags
  append_number(0, 2, text);  // stored
  append_number(0, 2, text);  // time
  append_number(kDate, 2, text);
  append_number(crc, 4, text);
  append_number(member.content.size(), 4, text);
  append_number(member.content.size(), 4, text);
  append_number(member.name.size(), 2, text);
  append_number(0, 2, text);  // extra field
}

uint32_t checksum(std::string_view content) {
  return static_cast<uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size()));
}

}  // namespace

Status write_zip(const std::vector<NewZipMember>& members,
                 const std::function<Status(std::string_view)>& append) {
  size_t bytes = kRecordBytes;
  for (const NewZipMember& member : members) {
    LOCKSTEP_CHECK(member.name.size() <= UINT16_MAX);
    bytes += member.content.size() + 2 * member.name.size() + kRecordBytes;
  }
  if (bytes > UINT32_MAX || members.size() > UINT16_MAX) {
    return Error{fmt::format(
        "an archive of {} bytes is more than ZIP's 4 GiB: write weights as .safetensors", bytes)};
  }
  size_t written = 0;
  std::string directory;
  for (const NewZipMember& member : members) {
    const uint32_t crc = checksum(member.content);
    append_number(kDirectorySignature, 4, &directory);
    append_number(kVersion, 2, &directory);
    append_description(member, crc, &directory);
    append_number(0, 2, &directory);  // comment
    append_number(0, 2, &directory);  // disk
    append_number(0, 2, &directory);  // internal attributes
    append_number(0, 4, &directory);  // external attributes
    append_number(written, 4, &directory);
    directory += member.name;
    std::string header;
    append_number(kMemberSignature, 4, &header);
    append_description(member, crc, &header);
    header += member.name;
    LOCKSTEP_RETURN_IF_ERROR(append(header));
    LOCKSTEP_RETURN_IF_ERROR(append(member.content));
    written += header.size() + member.content.size();
  }
  const size_t directory_bytes = directory.size();
  append_number(kEndSignature, 4, &directory);
  append_number(0, 4, &directory);  // disks
  append_number(members.size(), 2, &directory);
  append_number(members.size(), 2, &directory);
  append_number(directory_bytes, 4, &directory);
  append_number(written, 4, &directory);
  append_number(0, 2, &directory);  // comment
  return append(directory);
}

Result<std::string> make_zip(const std::vector<NewZipMember>& members) {
  std::string archive;
  LOCKSTEP_RETURN_IF_ERROR(write_zip(members, [&](std::string_view piece) -> Status {
    archive += piece;
    return {};
  }));
  return archive;
}

}  // namespace lockstep
