#include "host/data/idx.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>

#include "host/core/digest.h"
#include "host/data/byte_source.h"

namespace lockstep {
namespace {

constexpr size_t kInflatedBytes = 256 << 10;  // stays in the cache between inflating and hashing
constexpr int64_t kUsualGzipRatio = 16;
constexpr uint8_t kUnsignedByte = 0x08;

struct Header {
  Shape dimensions;
  int64_t values = 0;      // bytes of them
  int64_t file_bytes = 0;  // header and values
};

std::string element_type_name(uint8_t type) {
  switch (type) {
    case 0x09:
      return "signed bytes";
    case 0x0B:
      return "16-bit integers";
    case 0x0C:
      return "32-bit integers";
    case 0x0D:
      return "32-bit floats";
    case 0x0E:
      return "64-bit floats";
    default:
      return "an unknown type";
  }
}

// One file being read: its bytes, their hash so far, and messages about it.
class IdxReader {
 public:
  IdxReader(std::string path, IdxKind kind, ByteSource& source)
      : path_(std::move(path)), kind_(kind), source_(source) {}

  Result<IdxArray> read();

 private:
  Result<size_t> read_bytes(uint8_t* to, size_t bytes);
  Result<Header> read_header();
  Status check_magic(const std::array<uint8_t, 4>& magic) const;
  Status check_size(const Header& header) const;
  Result<std::vector<uint8_t>> read_values(const Header& header);
  Status check_end(const Header& header);
  Error cut_short(const Header& header, int64_t found) const;
  Error too_long(const Header& header, const std::string& found) const;
  std::string claim(const Header& header) const;
  const char* inflated() const { return source_.is_gzip() ? " once inflated" : ""; }

  const std::string path_;
  const IdxKind kind_;
  ByteSource& source_;
  Sha256 hash_;
};

Result<IdxArray> IdxReader::read() {
  LOCKSTEP_ASSIGN(Header header, read_header());
  LOCKSTEP_RETURN_IF_ERROR(check_size(header));
  LOCKSTEP_ASSIGN(auto values, read_values(header));
  LOCKSTEP_RETURN_IF_ERROR(check_end(header));
  return IdxArray{std::move(header.dimensions), std::move(values), hash_.hex()};
}

Result<size_t> IdxReader::read_bytes(uint8_t* to, size_t bytes) {
  LOCKSTEP_ASSIGN(const size_t count, source_.read(to, bytes));
  hash_.update(to, count);
  return count;
}

Result<Header> IdxReader::read_header() {
  std::array<uint8_t, 4> magic{};
  LOCKSTEP_ASSIGN(const size_t magic_bytes, read_bytes(magic.data(), magic.size()));
  if (magic_bytes == 0) {
    return Error{fmt::format("'{}' is empty{}; copy or download it again", path_, inflated())};
  }
  if (magic_bytes < magic.size()) {
    return Error{
        fmt::format("'{}' is no IDX file: it holds {} bytes{}, fewer than a header; copy "
                    "or download it again",
                    path_, magic_bytes, inflated())};
  }
  LOCKSTEP_RETURN_IF_ERROR(check_magic(magic));
  std::array<uint8_t, 4 * 4> sizes{};
  const size_t rank = magic[3];
  LOCKSTEP_ASSIGN(const size_t size_bytes, read_bytes(sizes.data(), 4 * rank));
  if (size_bytes < 4 * rank) {
    return Error{
        fmt::format("'{}' ends early: its header has {} bytes, and {} were found{}; copy "
                    "or download it again",
                    path_, 4 + 4 * rank, 4 + size_bytes, inflated())};
  }
  Header header;
  header.values = 1;
  bool representable = true;
  for (size_t i = 0; i < rank; ++i) {
    const uint8_t* bytes = &sizes[4 * i];
    const int64_t size = int64_t{bytes[0]} << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
    header.dimensions.push_back(size);
    representable &= !__builtin_mul_overflow(header.values, size, &header.values);
  }
  const int64_t header_bytes = static_cast<int64_t>(4 + 4 * rank);
  representable &= !__builtin_add_overflow(header.values, header_bytes, &header.file_bytes);
  if (!representable || header.values == 0) {
    return Error{
        fmt::format("'{}' is no data set: its header says dimensions of {}; write it "
                    "again",
                    path_, to_string(header.dimensions))};
  }
  return header;
}

Status IdxReader::check_magic(const std::array<uint8_t, 4>& magic) const {
  const bool images = kind_ == IdxKind::images;
  if (magic[0] != 0 || magic[1] != 0) {
    return Error{
        fmt::format("'{}' is no IDX file: it begins with {:02x} {:02x} {:02x} {:02x}{}, "
                    "where {} begin with 00 00 08 {}; check that it is the right file",
                    path_, magic[0], magic[1], magic[2], magic[3], inflated(),
                    images ? "images" : "labels", images ? "03 or 04" : "01")};
  }
  if (magic[2] != kUnsignedByte) {
    return Error{
        fmt::format("'{}' holds {} (element type 0x{:02X}), and only unsigned bytes "
                    "(0x08) can be read; convert it",
                    path_, element_type_name(magic[2]), magic[2])};
  }
  if (images ? magic[3] != 3 && magic[3] != 4 : magic[3] != 1) {
    return Error{fmt::format(
        "'{}' has {} dimensions, and {}; check that images and labels are "
        "not swapped",
        path_, magic[3],
        images ? "images have 3 (rows, height, width) or 4 (with channels)" : "labels have 1")};
  }
  return {};
}

std::string IdxReader::claim(const Header& header) const {
  const Shape row_shape(header.dimensions.begin() + 1, header.dimensions.end());
  const std::string of = row_shape.empty() ? "" : " of shape " + to_string(row_shape);
  return fmt::format("its header says {} rows{}, {} bytes in all", header.dimensions[0], of,
                     header.file_bytes);
}

Error IdxReader::cut_short(const Header& header, int64_t found) const {
  return {fmt::format("'{}' ends early: {}, and {} were found{}; copy or download it again", path_,
                      claim(header), found, inflated())};
}

Error IdxReader::too_long(const Header& header, const std::string& found) const {
  return {
      fmt::format("'{}' is too long: {}, and {} were found{}; header and content do not belong "
                  "together, so copy or write it again",
                  path_, claim(header), found, inflated())};
}

// Before any memory is taken for what the header claims.
Status IdxReader::check_size(const Header& header) const {
  const int64_t found = source_.file_bytes();
  if (!source_.is_gzip()) {
    if (found < header.file_bytes) return cut_short(header, found);
    if (found > header.file_bytes) return too_long(header, std::to_string(found));
  } else if (header.file_bytes / kMaxDeflateRatio > found) {
    return Error{
        fmt::format("'{}' ends early: {}, more than its {} bytes of gzip can hold; copy "
                    "or download it again",
                    path_, claim(header), found)};
  }
  return {};
}

Result<std::vector<uint8_t>> IdxReader::read_values(const Header& header) {
  std::vector<uint8_t> values;
  const int64_t likely = source_.is_gzip() ? source_.file_bytes() * kUsualGzipRatio : header.values;
  values.reserve(static_cast<size_t>(std::min(header.values, likely)));
  const size_t bytes = static_cast<size_t>(header.values);
  while (values.size() < bytes) {
    const size_t begin = values.size();
    const size_t wanted = std::min(kInflatedBytes, bytes - begin);
    values.resize(begin + wanted);
    LOCKSTEP_ASSIGN(const size_t count, read_bytes(values.data() + begin, wanted));
    if (count < wanted) {
      return cut_short(header,
                       header.file_bytes - header.values + static_cast<int64_t>(begin + count));
    }
  }
  return values;
}

// One byte more than the header says: finds a tail, and makes zlib compare the checksum.
Status IdxReader::check_end(const Header& header) {
  uint8_t extra = 0;
  LOCKSTEP_ASSIGN(const size_t count, source_.read(&extra, 1));
  if (count > 0) return too_long(header, "more");
  if (source_.is_cut_short()) {
    return Error{
        fmt::format("'{}' is a damaged gzip file: it ends before its checksum; copy or "
                    "download it again",
                    path_)};
  }
  return {};
}

}  // namespace

Result<IdxArray> read_idx(const std::string& path, IdxKind kind) {
  LOCKSTEP_ASSIGN(auto source, ByteSource::open(path));
  return IdxReader(path, kind, *source).read();
}

}  // namespace lockstep
