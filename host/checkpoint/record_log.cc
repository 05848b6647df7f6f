#include "host/checkpoint/record_log.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>

#include "host/core/digest.h"
#include "host/core/planted.h"

namespace lockstep {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie");

constexpr char kMagic[] = {'L', 'o', 'c', 'k', 'l', 'o', 'g', '\n'};
constexpr uint32_t kLogFormat = 1;
constexpr uint64_t kMaxBodyBytes = 64 << 20;

struct FileHeader {
  char magic[8];
  uint32_t format;
  uint32_t crc;  // of all of the header but this
  uint64_t first_index;
  uint64_t first_term;  // no record has an earlier one
};
static_assert(sizeof(FileHeader) == 32);

struct RecordHeader {
  uint32_t length;  // of the body
  uint32_t crc;     // of all of the record but this
  uint64_t term;
  uint64_t index;
  uint64_t previous;  // XXH3 of the record before, or of the file's header
};
static_assert(sizeof(RecordHeader) == 32);

template <class Header>
std::string_view bytes_of(const Header& header) {
  return {reinterpret_cast<const char*>(&header), sizeof(header)};
}

// Of the header but its own checksum, then of the body.
template <class Header>
uint32_t crc_of(const Header& header, std::string_view body = {}) {
  constexpr size_t kEnd = offsetof(Header, crc) + sizeof(header.crc);
  const std::string_view bytes = bytes_of(header);
  const uint32_t begin = crc32c(bytes.data(), offsetof(Header, crc));
  const uint32_t middle = crc32c(bytes.data() + kEnd, sizeof(header) - kEnd, begin);
  return crc32c(body.data(), body.size(), middle);
}

std::string file_header(uint64_t first_index, uint64_t first_term) {
  FileHeader header{
      .format = kLogFormat, .crc = 0, .first_index = first_index, .first_term = first_term};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.crc = crc_of(header);
  return std::string(bytes_of(header));
}

std::string record_bytes(uint64_t term, uint64_t index, uint64_t previous, std::string_view body) {
  RecordHeader header{static_cast<uint32_t>(body.size()), 0, term, index, previous};
  header.crc = crc_of(header, body);
  std::string bytes(bytes_of(header));
  return bytes += body;
}

uint64_t hash_of(std::string_view bytes) { return xxh3(bytes.data(), bytes.size()); }

Status check_size(std::string_view body) {
  if (body.size() <= kMaxBodyBytes) return {};
  return Error{
      fmt::format("a log record of {} bytes is too long: at most {}", body.size(), kMaxBodyBytes)};
}

// Walks over the bytes of a log.
class Reader {
 public:
  Reader(const std::string& path, std::string_view bytes) : path_(path), bytes_(bytes) {}

  Result<LogContents> run() {
    LOCKSTEP_RETURN_IF_ERROR(read_header());
    while (offset_ < bytes_.size()) {
      const auto header = whole_record_at(offset_);
      if (!header) {
        LOCKSTEP_RETURN_IF_ERROR(leave_tail_out());
        break;
      }
      LOCKSTEP_RETURN_IF_ERROR(take(*header));
    }
    contents_.whole_bytes = offset_;
    return std::move(contents_);
  }

 private:
  Error damaged(const std::string& what) const {
    return {
        fmt::format("the log '{}' is damaged at offset {}: {}; restore it from a copy, or move "
                    "it away to go on from the newest checkpoint",
                    path_, offset_, what)};
  }

  Status read_header() {
    FileHeader header;
    if (bytes_.size() < sizeof(header)) return damaged("shorter than its header");
    std::memcpy(&header, bytes_.data(), sizeof(header));
    if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
      return damaged("it does not begin as a log of Lockstep does");
    }
    if (header.crc != crc_of(header)) return damaged("its header's checksum is wrong");
    if (header.format != kLogFormat) {
      return Error{
          fmt::format("the log '{}' has the format {} (offset {}), this version reads {}; "
                      "use the version of Lockstep that wrote it",
                      path_, header.format, offsetof(FileHeader, format), kLogFormat)};
    }
    contents_.first_index = header.first_index;
    contents_.first_term = header.first_term;
    contents_.last_term = header.first_term;
    contents_.last_hash = hash_of(bytes_.substr(0, sizeof(header)));
    offset_ = sizeof(header);
    return {};
  }

  std::optional<RecordHeader> header_at(uint64_t offset) const {
    RecordHeader header;
    if (bytes_.size() - offset < sizeof(header)) return std::nullopt;
    std::memcpy(&header, bytes_.data() + offset, sizeof(header));
    const uint64_t rest = bytes_.size() - offset - sizeof(header);
    if (header.length > kMaxBodyBytes || header.length > rest) return std::nullopt;
    return header;
  }

  std::string_view body_at(uint64_t offset, const RecordHeader& header) const {
    return bytes_.substr(offset + sizeof(header), header.length);
  }

  std::optional<RecordHeader> whole_record_at(uint64_t offset) const {
    const auto header = header_at(offset);
    if (!header) return std::nullopt;
    if (planted(Bug::torn_record_taken)) return header;
    if (header->crc != crc_of(*header, body_at(offset, *header))) return std::nullopt;
    return header;
  }

  Status take(const RecordHeader& header) {
    if (header.index != contents_.next_index()) {
      return damaged(
          fmt::format("record {} where {} belongs", header.index, contents_.next_index()));
    }
    if (header.previous != contents_.last_hash) {
      return damaged(fmt::format("record {} does not follow the one before it", header.index));
    }
    if (header.term < contents_.last_term) {
      return damaged(fmt::format("record {} has the term {} after the term {}", header.index,
                                 header.term, contents_.last_term));
    }
    contents_.records.push_back({header.term, header.index, std::string(body_at(offset_, header))});
    contents_.last_term = header.term;
    const uint64_t size = sizeof(header) + header.length;
    contents_.last_hash = hash_of(bytes_.substr(offset_, size));
    offset_ += size;
    return {};
  }

  // A crash tears the last record only. A later whole one says that this one was once whole too.
  Status leave_tail_out() {
    const uint64_t expected = contents_.next_index();
    for (uint64_t offset = offset_ + 1; offset < bytes_.size(); ++offset) {
      const auto header = header_at(offset);
      if (!header || header->index < expected) continue;
      // Spares the checksum at nearly every place that is no record.
      if (header->index - expected > (offset - offset_) / sizeof(RecordHeader)) continue;
      if (!whole_record_at(offset)) continue;
      return damaged(fmt::format("a broken record, with the whole record {} after it at offset {}",
                                 header->index, offset));
    }
    contents_.notes.push_back(
        {path_, offset_, bytes_.size() - offset_, "an append that a crash cut short; left out"});
    return {};
  }

  const std::string& path_;
  std::string_view bytes_;
  uint64_t offset_ = 0;
  LogContents contents_;
};

}  // namespace

Result<LogContents> read_log(FileSystem& files, const std::string& path) {
  LOCKSTEP_ASSIGN(const std::string bytes, files.read(path));
  return Reader(path, bytes).run();
}

Result<RecordLog::Opened> RecordLog::open(FileSystem& files, const std::string& path) {
  LOCKSTEP_RETURN_IF_ERROR(files.remove_temporaries(folder_of(path)));
  LOCKSTEP_ASSIGN(const auto size, files.size_of(path));
  LogContents contents;
  if (size) {
    LOCKSTEP_ASSIGN(contents, read_log(files, path));
  }
  Opened opened{RecordLog(files, path), std::move(contents.records), std::move(contents.notes)};
  LOCKSTEP_RETURN_IF_ERROR(
      opened.log.replace(contents.first_index, contents.first_term, opened.records));
  return opened;
}

Status RecordLog::replace(uint64_t first_index, uint64_t first_term,
                          const std::vector<LogRecord>& records) {
  std::string bytes = file_header(first_index, first_term);
  uint64_t hash = hash_of(bytes);
  for (const LogRecord& record : records) {
    const std::string one = record_bytes(record.term, record.index, hash, record.body);
    hash = hash_of(one);
    bytes += one;
  }
  const auto replaced = [&]() -> Status {
    LOCKSTEP_RETURN_IF_ERROR(files_->write_atomically(path_, bytes));
    LOCKSTEP_ASSIGN(file_, files_->open_append(path_, path_));
    return {};
  }();
  if (!replaced.ok()) {
    failed_ = replaced.error();
    return replaced;
  }
  next_index_ = first_index + records.size();
  term_ = records.empty() ? first_term : records.back().term;
  last_hash_ = hash;
  bytes_ = bytes.size();
  return {};
}

Status RecordLog::check_term(uint64_t term) const {
  if (failed_) return *failed_;
  if (term >= term_) return {};
  return Error{fmt::format("the log '{}' is at the term {}: a record of the term {} comes too late",
                           path_, term_, term)};
}

Result<uint64_t> RecordLog::append(uint64_t term, std::string_view body) {
  LOCKSTEP_RETURN_IF_ERROR(check_term(term));
  LOCKSTEP_RETURN_IF_ERROR(check_size(body));
  const std::string bytes = record_bytes(term, next_index_, last_hash_, body);
  Status written = file_->append(bytes);
  if (written.ok()) written = file_->sync();
  if (!written.ok()) {
    failed_ = written.error();
    return *failed_;
  }
  term_ = term;
  last_hash_ = hash_of(bytes);
  bytes_ += bytes.size();
  return next_index_++;
}

Status RecordLog::compact(uint64_t term, const std::vector<std::string>& bodies) {
  LOCKSTEP_RETURN_IF_ERROR(check_term(term));
  std::vector<LogRecord> records;
  for (const std::string& body : bodies) {
    LOCKSTEP_RETURN_IF_ERROR(check_size(body));
    records.push_back({term, next_index_ + records.size(), body});
  }
  return replace(next_index_, term, records);
}

}  // namespace lockstep
