#include "host/data/zip_archive.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>

#include "host/core/check.h"
#include "host/data/byte_source.h"

namespace lockstep {
namespace {

constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kLocator64Signature = 0x07064b50;
constexpr uint64_t kMemberBytes = 30;  // of headers, without what has a length of its own
constexpr uint64_t kDirectoryBytes = 46;
constexpr uint64_t kEndBytes = 22;
constexpr uint64_t kEnd64Bytes = 56;
constexpr uint64_t kLocator64Bytes = 20;
constexpr uint64_t kMaxComment = 0xffff;
constexpr uint16_t kZip64Extra = 0x0001;
constexpr uint16_t kStored = 0;
constexpr uint16_t kDeflated = 8;
constexpr uint16_t kEncrypted = 1;
constexpr uint64_t kUsualDeflateRatio = 16;
constexpr size_t kPieceBytes = 1 << 20;

// Little-endian numbers of `bytes`; whoever reads has checked that they are there.
class Fields {
 public:
  explicit Fields(const SharedBytes& bytes) : bytes_(bytes) {}
  uint64_t number(uint64_t at, size_t count) const {
    LOCKSTEP_CHECK(at <= bytes_.size() && count <= bytes_.size() - at);
    uint64_t value = 0;
    for (size_t i = 0; i < count; ++i) value |= uint64_t{bytes_.data()[at + i]} << (8 * i);
    return value;
  }
  uint16_t u16(uint64_t at) const { return static_cast<uint16_t>(number(at, 2)); }
  uint32_t u32(uint64_t at) const { return static_cast<uint32_t>(number(at, 4)); }
  uint64_t u64(uint64_t at) const { return number(at, 8); }
  std::string_view text(uint64_t at, uint64_t count) const {
    LOCKSTEP_CHECK(at <= bytes_.size() && count <= bytes_.size() - at);
    return {reinterpret_cast<const char*>(bytes_.data()) + at, count};
  }
  // Whether [at, at + count) is there and before `end`.
  bool holds(uint64_t at, uint64_t count, uint64_t end) const {
    return end <= bytes_.size() && at <= end && count <= end - at;
  }

 private:
  const SharedBytes& bytes_;
};

// The archive's directory: `entries` of them in [begin, end).
struct Directory {
  uint64_t entries = 0;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// The end record's place: the last that is followed by nothing but its comment.
std::optional<uint64_t> find_end(const SharedBytes& bytes) {
  const Fields fields(bytes);
  if (bytes.size() < kEndBytes) return std::nullopt;
  const uint64_t last = bytes.size() - kEndBytes;
  const uint64_t first = last - std::min(last, kMaxComment);
  for (uint64_t at = last + 1; at-- > first;) {
    if (fields.u32(at) != kEndSignature) continue;
    if (at + kEndBytes + fields.u16(at + 20) == bytes.size()) return at;
  }
  return std::nullopt;
}

std::optional<Directory> find_directory(const SharedBytes& bytes) {
  const Fields fields(bytes);
  const auto end_at = find_end(bytes);
  if (!end_at) return std::nullopt;
  uint64_t disks = fields.u16(*end_at + 4) | fields.u16(*end_at + 6);
  Directory directory{fields.u16(*end_at + 10), fields.u32(*end_at + 16), *end_at};
  uint64_t size = fields.u32(*end_at + 12);
  uint64_t limit = *end_at;
  const bool is_64 =
      limit >= kLocator64Bytes && fields.u32(limit - kLocator64Bytes) == kLocator64Signature;
  if (is_64) {
    limit -= kLocator64Bytes;
    const uint64_t at = fields.u64(limit + 8);
    if (!fields.holds(at, kEnd64Bytes, limit) || fields.u32(at) != kEnd64Signature) {
      return std::nullopt;
    }
    disks = fields.u32(at + 16) | fields.u32(at + 20);
    directory.entries = fields.u64(at + 32);
    size = fields.u64(at + 40);
    directory.begin = fields.u64(at + 48);
    limit = at;
  }
  const bool fits = fields.holds(directory.begin, size, limit);
  if (disks != 0 || !fits || directory.entries > size / kDirectoryBytes) return std::nullopt;
  directory.end = directory.begin + size;
  return directory;
}

// Puts the 64-bit values of the extra fields [at, end) in the place of 32-bit ones that say so.
bool read_zip64(const Fields& fields, uint64_t at, uint64_t end, ZipMember* member) {
  std::vector<uint64_t*> wide;
  for (uint64_t* value : {&member->bytes, &member->packed, &member->header_at}) {
    if (*value == UINT32_MAX) wide.push_back(value);
  }
  while (!wide.empty() && fields.holds(at, 4, end)) {
    const uint16_t kind = fields.u16(at);
    const uint16_t size = fields.u16(at + 2);
    at += 4;
    if (!fields.holds(at, size, end)) return false;
    if (kind == kZip64Extra) {
      if (size < 8 * wide.size()) return false;
      for (size_t i = 0; i < wide.size(); ++i) *wide[i] = fields.u64(at + 8 * i);
      return true;
    }
    at += size;
  }
  return true;
}

// The entry at *at, which it then stands behind.
std::optional<ZipMember> read_entry(const Fields& fields, uint64_t end, uint64_t* at) {
  if (!fields.holds(*at, kDirectoryBytes, end) || fields.u32(*at) != kDirectorySignature) {
    return std::nullopt;
  }
  const uint64_t name_size = fields.u16(*at + 28);
  const uint64_t extra_size = fields.u16(*at + 30);
  const uint64_t comment_size = fields.u16(*at + 32);
  const uint64_t name_at = *at + kDirectoryBytes;
  if (!fields.holds(name_at, name_size + extra_size + comment_size, end)) return std::nullopt;
  ZipMember member;
  member.flags = fields.u16(*at + 8);
  member.method = fields.u16(*at + 10);
  member.crc = fields.u32(*at + 16);
  member.packed = fields.u32(*at + 20);
  member.bytes = fields.u32(*at + 24);
  member.header_at = fields.u32(*at + 42);
  member.name = fields.text(name_at, name_size);
  const uint64_t extra_at = name_at + name_size;
  if (!read_zip64(fields, extra_at, extra_at + extra_size, &member)) return std::nullopt;
  *at = extra_at + extra_size + comment_size;
  return member;
}

uint32_t checksum(const SharedBytes& content) {
  uLong sum = crc32_z(0, nullptr, 0);
  for (size_t begin = 0; begin < content.size(); begin += kReadOnceBytes) {
    const auto piece = content.part(begin, std::min(kReadOnceBytes, content.size() - begin));
    sum = crc32_z(sum, piece.data(), piece.size());
    piece.release();
  }
  return static_cast<uint32_t>(sum);
}

// Raw deflate data into exactly `bytes` bytes; nothing where it is damaged or of another size.
std::optional<std::vector<uint8_t>> inflate_all(const SharedBytes& packed, uint64_t bytes) {
  z_stream stream{};
  LOCKSTEP_CHECK(inflateInit2(&stream, -MAX_WBITS) == Z_OK);
  std::vector<uint8_t> content;
  content.reserve(std::min<uint64_t>(bytes, packed.size() * kUsualDeflateRatio));
  size_t taken = 0;
  int code = Z_OK;
  while (code == Z_OK) {
    if (stream.avail_in == 0 && taken < packed.size()) {
      const size_t piece = std::min(kPieceBytes, packed.size() - taken);
      stream.next_in = const_cast<Bytef*>(packed.data() + taken);
      stream.avail_in = static_cast<uInt>(piece);
      taken += piece;
    }
    // One byte more than it claims shows that there are too many.
    const size_t begin = content.size();
    const size_t room = std::min<uint64_t>(kPieceBytes, bytes + 1 - begin);
    if (room == 0) break;
    content.resize(begin + room);
    stream.next_out = content.data() + begin;
    stream.avail_out = static_cast<uInt>(room);
    code = inflate(&stream, Z_NO_FLUSH);
    content.resize(begin + room - stream.avail_out);
  }
  inflateEnd(&stream);
  if (code != Z_STREAM_END || content.size() != bytes) return std::nullopt;
  return content;
}

}  // namespace

bool is_zip(const SharedBytes& bytes) {
  const Fields fields(bytes);
  if (bytes.size() < 4) return false;
  const uint32_t signature = fields.u32(0);
  return signature == kMemberSignature || signature == kEndSignature;
}

Error ZipArchive::damaged(const std::string& what) const {
  return {
      fmt::format("'{}' is a damaged or cut ZIP archive: {}; copy or save it again", path_, what)};
}

Result<ZipArchive> ZipArchive::open(const SharedBytes& bytes, const std::string& path) {
  ZipArchive archive(bytes, path);
  LOCKSTEP_RETURN_IF_ERROR(archive.read_directory());
  return archive;
}

Status ZipArchive::read_directory() {
  const Fields fields(bytes_);
  const auto directory = find_directory(bytes_);
  if (!directory) return damaged("no directory of its members ends it");
  uint64_t at = directory->begin;
  std::set<std::string_view> names;
  members_.reserve(directory->entries);
  for (uint64_t i = 0; i < directory->entries; ++i) {
    const auto member = read_entry(fields, directory->end, &at);
    if (!member) return damaged(fmt::format("entry {} of its directory", i));
    const bool printable = std::none_of(member->name.begin(), member->name.end(), [](char c) {
      return static_cast<unsigned char>(c) < ' ' || c == '\x7f';
    });
    if (!printable) return damaged(fmt::format("entry {} has control characters in its name", i));
    members_.push_back(*member);
    if (!names.insert(members_.back().name).second) {
      return damaged(fmt::format("two members are called '{}'", member->name));
    }
  }
  return {};
}

Result<SharedBytes> ZipArchive::packed_bytes(const ZipMember& member) const {
  const Fields fields(bytes_);
  const auto misplaced = [&] {
    return damaged(fmt::format("member '{}' is not where its directory says", member.name));
  };
  const uint64_t at = member.header_at;
  if (!fields.holds(at, kMemberBytes, bytes_.size()) || fields.u32(at) != kMemberSignature) {
    return misplaced();
  }
  const uint64_t name_size = fields.u16(at + 26);
  const uint64_t begin = at + kMemberBytes + name_size + fields.u16(at + 28);
  if (!fields.holds(begin, member.packed, bytes_.size())) {
    return damaged(fmt::format("member '{}' claims {} bytes, more than the file holds", member.name,
                               member.packed));
  }
  if (fields.text(at + kMemberBytes, name_size) != member.name) return misplaced();
  return bytes_.part(begin, member.packed);
}

Result<std::vector<uint8_t>> ZipArchive::inflated(const ZipMember& member,
                                                  const SharedBytes& packed) const {
  if (member.bytes / kMaxDeflateRatio > packed.size()) {
    return damaged(fmt::format("member '{}' claims {} bytes, more than {} deflated ones can hold",
                               member.name, member.bytes, packed.size()));
  }
  auto content = inflate_all(packed, member.bytes);
  if (content) return std::move(*content);
  return damaged(fmt::format("member '{}' does not inflate to the {} bytes that it claims",
                             member.name, member.bytes));
}

Result<SharedBytes> ZipArchive::read(const ZipMember& member) const {
  if ((member.flags & kEncrypted) != 0) {
    return Error{fmt::format("member '{}' of '{}' is encrypted; save it without a password",
                             member.name, path_)};
  }
  if (member.method != kStored && member.method != kDeflated) {
    return Error{
        fmt::format("member '{}' of '{}' is compressed with method {}, and only stored and "
                    "deflated ones can be read; save it with numpy.savez or "
                    "numpy.savez_compressed",
                    member.name, path_, member.method)};
  }
  LOCKSTEP_ASSIGN(SharedBytes content, packed_bytes(member));
  if (member.method == kDeflated) {
    LOCKSTEP_ASSIGN(auto bytes, inflated(member, content));
    content = SharedBytes(std::move(bytes));
  } else if (member.bytes != member.packed) {
    return damaged(fmt::format("stored member '{}' has two sizes", member.name));
  }
  if (checksum(content) != member.crc) {
    return damaged(
        fmt::format("member '{}' does not have the checksum that it should have", member.name));
  }
  return content;
}

}  // namespace lockstep
