// A ZIP archive of data: what is in it, and the bytes of one member. Stored members are not copied.
// (PKWARE's APPNOTE.TXT: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.)
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/data/shared_bytes.h"

namespace lockstep {

// What a member, its entry in the directory, and the directory's end begin with.
inline constexpr uint32_t kMemberSignature = 0x04034b50;
inline constexpr uint32_t kDirectorySignature = 0x02014b50;
inline constexpr uint32_t kEndSignature = 0x06054b50;

struct ZipMember {
  std::string name;
  uint64_t bytes = 0;   // as the archive claims: nothing is taken for it before it is checked
  uint64_t packed = 0;  // bytes in the archive
  uint64_t header_at = 0;
  uint32_t crc = 0;
  uint16_t flags = 0;
  uint16_t method = 0;
};

// Immutable. Own code rather than libzip, which says neither where a stored member lies, as mapping
// it needs, nor checks the number of members before it takes memory for them.
class ZipArchive {
 public:
  // Of a whole archive; zip64 too. Refuses archives of several volumes, two members of one name,
  // and names that hold control characters. Errors name `path`.
  static Result<ZipArchive> open(const SharedBytes& bytes, const std::string& path);

  const std::vector<ZipMember>& members() const { return members_; }
  // Its content, stored or deflated, which must have the checksum that the archive gives. Takes
  // memory for no more than the archive really holds.
  Result<SharedBytes> read(const ZipMember& member) const;

 private:
  ZipArchive(const SharedBytes& bytes, std::string path) : bytes_(bytes), path_(std::move(path)) {}
  Status read_directory();
  Result<SharedBytes> packed_bytes(const ZipMember& member) const;
  Result<std::vector<uint8_t>> inflated(const ZipMember& member, const SharedBytes& packed) const;
  Error damaged(const std::string& what) const;

  SharedBytes bytes_;
  std::string path_;
  std::vector<ZipMember> members_;
};

bool is_zip(const SharedBytes& bytes);

}  // namespace lockstep
